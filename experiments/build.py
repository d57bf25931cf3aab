"""Config -> objects: the model, the objective, the optimizer."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from experiments.data_sets import Data
from pmrl_jax import encoders, training
from pmrl_jax.data import Source, evaluation_batches
from pmrl_jax.evaluation import EmbeddingSet
from pmrl_jax.losses import pmrl_loss
from pmrl_jax.training.step import Objective

_ENCODERS: dict[str, type[nn.Module]] = {
  "character_transformer": encoders.CharacterTransformer,
  "spectrogram_transformer": encoders.SpectrogramTransformer,
  "table": encoders.TableEncoder,
  "trajectory_transformer": encoders.TrajectoryTransformer,
  "vision_transformer": encoders.VisionTransformer,
}
_PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
  config: ml_collections.ConfigDict, data: Data
) -> encoders.MultimodalEncoder:
  """Builds the encoders of the run's modalities.

  Args:
    config: `model.encoders.<modality>` holds the encoder's `kind` and fields;
      `model.default_encoder`, if it is there, those of the other modalities.
    data: What the run reads.

  Returns:
    The model.

  Raises:
    ValueError: If a modality has no encoder, or a kind, field or precision is
      unknown.
  """
  if config.precision not in _PRECISIONS:
    raise ValueError(
      f"config.precision must be one of {sorted(_PRECISIONS)}, got "
      f"{config.precision!r}"
    )
  if config.model.dim < 1:
    raise ValueError(
      f"config.model.dim must be at least 1, got {config.model.dim}"
    )
  dtype = _PRECISIONS[config.precision]
  described = config.model.encoders
  default = config.model.get("default_encoder")
  modules = {}
  for modality in data.train.modalities:
    if modality not in described and default is None:
      raise ValueError(
        f"the modality {modality!r} has no encoder: config.model.encoders "
        f"describes {sorted(described)}. Add "
        f"config.model.encoders.{modality}, or take it out of "
        "config.data.modalities"
      )
    fields = dict(described.get(modality, default), dtype=dtype)
    if modality in data.vocabulary_sizes:
      fields.setdefault("vocabulary_size", data.vocabulary_sizes[modality])
    modules[modality] = _encoder(modality, fields)
  return encoders.MultimodalEncoder(
    encoders=modules, dim=config.model.dim, dtype=dtype
  )


def _encoder(modality: str, fields: dict[str, Any]) -> nn.Module:
  """One encoder from its kind and fields."""
  where = f"config.model.encoders.{modality}"
  kind = fields.pop("kind", None)
  if kind not in _ENCODERS:
    raise ValueError(
      f"{where}.kind must be one of {sorted(_ENCODERS)}, got {kind!r}"
    )
  declared = {
    field.name: field
    for field in dataclasses.fields(_ENCODERS[kind])
    if field.name not in ("parent", "name")
  }
  if unknown := sorted(set(fields) - set(declared)):
    raise ValueError(
      f"{where} has the unknown fields {unknown}; a {kind} has "
      f"{sorted(declared)}"
    )
  missing = [
    name
    for name, field in declared.items()
    if field.default is dataclasses.MISSING and name not in fields
  ]
  if missing:
    raise ValueError(f"{where} lacks the fields {missing} of a {kind}")
  return _ENCODERS[kind](**fields)


def build_objective(
  config: ml_collections.ConfigDict, model: nn.Module
) -> Objective:
  """Builds the loss as a function of parameters, batch and key.

  Args:
    config: `loss` holds the keyword arguments of `pmrl_loss`.
    model: The model.

  Returns:
    The objective.
  """
  arguments = dict(config.loss)

  def objective(
    params: Any, batch: Mapping[str, Any], key: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    embeddings, where = model.apply(
      {"params": params},
      batch["inputs"],
      where=batch["where"],
      train=True,
      rngs={"dropout": key},
    )
    loss, alignment, instance, _ = pmrl_loss(
      embeddings, where=where, ids=batch["ids"], **arguments
    )
    return loss, {"alignment": alignment, "instance": instance}

  return objective


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a batch that goes to the devices."""
  return {name: batch[name] for name in ("inputs", "where", "ids")}


def build_optimizer(
  config: ml_collections.ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimizer and its schedule.

  Args:
    config: `optimizer` holds the keyword arguments of `make_optimizer`.

  Returns:
    The optimizer and its learning rate by step.
  """
  return training.make_optimizer(steps=config.steps, **config.optimizer)


def initial_state(
  model: nn.Module,
  data: Data,
  optimizer: optax.GradientTransformation,
  seed: int,
) -> training.TrainState:
  """The state before the first step, from the seed alone."""
  example = {
    modality: jnp.zeros((2, *spec.shape), spec.dtype)
    for modality, spec in data.train.spec.items()
  }
  params = jax.jit(model.init)(jax.random.key(seed), example)["params"]
  return training.create_state(params, optimizer)


def check_shapes(
  train_step: Callable, state: Any, iterator: Any, mesh: Mesh
) -> None:
  """Traces the step without running it, so that misfits show at once.

  Args:
    train_step: The compiled step.
    state: The initial state.
    iterator: The data; its position is left as it is.
    mesh: The devices.

  Raises:
    ValueError: If a shape, a dtype or an option does not fit.
    TypeError: Likewise.
  """
  position = iterator.get_state()
  batch = training.shard_batch(model_inputs(next(iterator)), mesh)
  iterator.set_state(position)
  jax.eval_shape(train_step, state, batch)


def build_embedder(
  model: nn.Module, mesh: Mesh, batch_size: int
) -> Callable[[Any, Source], EmbeddingSet]:
  """Compiles the function that embeds a whole split.

  Args:
    model: The model.
    mesh: The devices; a batch is split over them.
    batch_size: Instances per global batch.

  Returns:
    `(params, source) -> EmbeddingSet` with every instance of the source once.
  """

  # Replicated: every process gets the embeddings of all instances.
  @training.replicated_jit(mesh)
  def embed(params: Any, batch: Mapping[str, Any]) -> jax.Array:
    embeddings, _ = model.apply(
      {"params": params}, batch["inputs"], where=batch["where"]
    )
    return embeddings

  def embed_source(params: Any, source: Source) -> EmbeddingSet:
    parts = [
      np.asarray(embed(params, training.shard_batch(model_inputs(b), mesh)))
      for b in evaluation_batches(source, batch_size=batch_size)
    ]
    return EmbeddingSet(
      embeddings=np.concatenate(parts)[: len(source)],
      where=source.where,
      modalities=source.modalities,
      labels=source.labels if (source.labels >= 0).all() else None,
      items=source.pairing(0),
    )

  return embed_source
