"""Embeds a whole split, once for every item."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from pmrl_jax import encoders, training
from pmrl_jax.data import Source, View, evaluation_batches, first_instances
from pmrl_jax.evaluation import EmbeddingSet

# `(params, source, allow_missing=...) -> Embedded`, see `build_embedder`.
Embedder = Callable[..., "Embedded"]


class Embedded(NamedTuple):
  """What the model makes of a split.

  Attributes:
    embedding_set: What is measured.
    pooled: Of the published model what its joint features are made of,
      `{modality: [instance, width]}`; of others nothing.
  """

  embedding_set: EmbeddingSet
  pooled: dict[str, np.ndarray]


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a batch that goes to the devices."""
  return {name: batch[name] for name in ("inputs", "where", "ids")}


def evaluation_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
  """What goes to the devices in an evaluation: the rows' places as well.

  Next to each other on the mesh may be devices of different processes, and
  then the rows of a global batch are in another order than the instances.
  """
  size = len(batch["where"])
  rows = jax.process_index() * size + np.arange(size, dtype=np.int32)
  return model_inputs(batch) | {"rows": rows}


def in_order(outputs: Any, rows: jax.Array) -> Any:
  """Brings the rows of outputs into the order of the instances.

  Args:
    outputs: A tree of arrays `[batch, ...]`.
    rows: `[batch]`, from `evaluation_inputs`.

  Returns:
    The tree.
  """
  order = jnp.argsort(rows)
  return jax.tree.map(lambda x: x[order], outputs)


def build_embedder(
  model: Any, mesh: Mesh, batch_size: int, missing: bool
) -> Embedder:
  """Makes the function that embeds a whole split.

  Args:
    model: The model.
    mesh: The devices; a batch is split over them.
    batch_size: Instances per global batch.
    missing: Whether what cannot be read is absent, and no error.

  Returns:
    `(params, source, allow_missing=missing) -> Embedded` with every instance
    of the source once.
  """
  # The published model takes any of its modalities alone, so that a video with
  # ten captions is encoded once.
  one_by_one = isinstance(model, encoders.PMRLModel)

  # Replicated: every process gets the embeddings of all instances.
  @training.replicated_jit(mesh)
  def embed(params: Any, batch: Mapping[str, Any]) -> Any:
    variables, where = {"params": params}, batch["where"]
    if one_by_one:
      encoded = model.apply(
        variables, batch["inputs"], where=where, method="encode"
      )
      outputs = encoded.embeddings, encoded.where, encoded.pooled
    else:
      outputs = *model.apply(variables, batch["inputs"], where=where), {}
    return in_order(outputs, batch["rows"])

  def embed_source(
    params: Any, source: Source, *, allow_missing: bool = missing
  ) -> Embedded:
    first = first_instances(source)

    def embed_all(view: Source, *, distinct_items: bool = False) -> Any:
      batches = evaluation_batches(
        view,
        batch_size=batch_size,
        distinct_items=distinct_items,
        allow_failures=allow_missing,
      )
      return _concatenated(_run(embed, params, batches, mesh), len(view))

    if one_by_one:
      embeddings, where, pooled = _one_by_one(source, first, embed_all)
    else:
      embeddings, where, pooled = embed_all(source, distinct_items=True)
      # What was read once belongs to all instances that share it.
      rows, columns = np.maximum(first, 0), np.arange(first.shape[1])
      embeddings, where = embeddings[rows, columns], where[rows, columns]
    embedding_set = EmbeddingSet(
      embeddings=embeddings,
      where=source.where & where,
      modalities=source.modalities,
      labels=source.labels if (source.labels >= 0).all() else None,
      items=source.pairing(0),
    )
    return Embedded(embedding_set, pooled)

  return embed_source


def _one_by_one(
  source: Source, first: np.ndarray, embed_all: Callable[..., Any]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
  """Embeds the items of each modality, and gives them to their instances."""
  embeddings, where, pooled = [], [], {}
  for column, name in enumerate(source.modalities):
    # An absent modality is the one of the first instance, which is absent.
    rows = np.unique(np.maximum(first[:, column], 0))
    vectors, present, wide = embed_all(View(source, rows, [name]))
    place = np.searchsorted(rows, np.maximum(first[:, column], 0))
    embeddings.append(vectors[place, 0])
    where.append(present[place, 0] & (first[:, column] >= 0))
    pooled[name] = wide[name][place]
    # As if encoded in one batch: nothing is left of what is absent.
    pooled[name][~where[-1]] = 0
  return np.stack(embeddings, axis=1), np.stack(where, axis=1), pooled


def _run(
  function: Callable[..., Any],
  params: Any,
  batches: Iterator[Mapping[str, Any]],
  mesh: Mesh,
) -> Iterator[Any]:
  """What a function makes of every batch, as NumPy arrays."""
  for batch in batches:
    sent = training.shard_batch(evaluation_inputs(batch), mesh)
    yield jax.tree.map(np.asarray, function(params, sent))


def _concatenated(parts: Iterator[Any], length: int) -> Any:
  """Joins trees of arrays along the first axis, and cuts what fills it up."""
  return jax.tree.map(lambda *arrays: np.concatenate(arrays)[:length], *parts)
