"""The embeddings of one evaluation split, and its distinct records.

An instance holds one embedding per modality. The same record (one image, one
word) may serve in several instances; it must count once in a gallery, or a
data set that repeats its records would look easier than it is.
"""

from typing import Literal, NamedTuple

import jax
import numpy as np

from pmrl_jax import losses

LEVELS = ("class", "instance")
REST = "rest"


class EmbeddingSet(NamedTuple):
  """Embeddings of one evaluation split.

  Attributes:
    embeddings: `[instance, modality, dim]` float; normalised by the functions
      that use it. The content of an absent modality never matters.
    where: `[instance, modality]` bool, True where a modality is present.
    modalities: names, in the order of the modality axis.
    labels: `[instance]` int, the class of each instance, or None.
    items: `[instance, modality]` int, the record each embedding came from; of
      an absent one the record that is missing, for it belongs to the gallery.
  """

  embeddings: np.ndarray
  where: np.ndarray
  modalities: tuple[str, ...]
  labels: np.ndarray | None
  items: np.ndarray


class Records(NamedTuple):
  """Distinct records: of one modality, or of several taken together."""

  vectors: np.ndarray  # [record, dim] float64, unit length
  items: np.ndarray  # [record, modality] int, -1 where absent
  labels: np.ndarray | None  # [record] int
  of_instance: np.ndarray  # [instance] int: its record, -1 where it has none


def normalised(vectors: np.ndarray) -> np.ndarray:
  """Rows of unit length in float64; a zero row stays zero."""
  vectors = np.asarray(vectors, np.float64)
  norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
  return vectors / np.where(norms > 0, norms, 1.0)


def check_embedding_set(
  embedding_set: EmbeddingSet, level: str | None = None
) -> None:
  """Checks that the fields fit together.

  Args:
    embedding_set: the embeddings to check.
    level: "class" or "instance": what will count as relevant; or None.

  Raises:
    ValueError: if shapes, dtypes, names, labels or values do not fit.
  """
  embeddings, where, modalities, labels, items = embedding_set
  if np.ndim(embeddings) != 3:
    raise ValueError(
      "embeddings must be [instance, modality, dim], got shape "
      f"{np.shape(embeddings)}; stack the modalities on axis 1."
    )
  shape = embeddings.shape[:2]
  for name, array, kinds in (("where", where, "b"), ("items", items, "iu")):
    if np.shape(array) != shape or np.asarray(array).dtype.kind not in kinds:
      raise ValueError(
        f"{name} must be {'bool' if kinds == 'b' else 'int'} of shape {shape} "
        f"[instance, modality], got {np.asarray(array).dtype} of shape "
        f"{np.shape(array)}."
      )
  if len(modalities) != shape[1] or len(set(modalities)) != shape[1]:
    raise ValueError(
      f"modalities must be {shape[1]} distinct names, one per column of "
      f"embeddings, got {modalities}."
    )
  if shape[1] < 2 or REST in modalities:
    raise ValueError(
      "evaluation needs two or more modalities, none of them called "
      f"{REST!r} (all others together), got {modalities}."
    )
  _check_labels(labels, shape[0], level)
  broken = where & ~np.isfinite(embeddings).all(axis=-1)
  if broken.any():
    instance, modality = np.argwhere(broken)[0]
    raise ValueError(
      f"{int(broken.sum())} embeddings are not finite, the first one is "
      f"{modalities[modality]!r} of instance {instance}; mark absent "
      "modalities in `where`, or find the step that made the model diverge."
    )


def _check_labels(
  labels: np.ndarray | None, num_instances: int, level: str | None
) -> None:
  """Raises unless labels and level fit each other."""
  if level is not None and level not in LEVELS:
    raise ValueError(
      f"level must be one of {LEVELS}, got {level!r}: 'class' counts items of "
      "the same label as relevant, 'instance' those of the same instance."
    )
  if labels is None:
    if level == "class":
      raise ValueError(
        "level='class' needs labels, got None; set EmbeddingSet.labels or use "
        "level='instance'."
      )
  elif (
    np.shape(labels) != (num_instances,)
    or np.asarray(labels).dtype.kind not in "iu"
  ):
    raise ValueError(
      f"labels must be int of shape ({num_instances},), one per instance, got "
      f"{np.asarray(labels).dtype} of shape {np.shape(labels)}."
    )


def modality_records(embedding_set: EmbeddingSet, modality: str) -> Records:
  """Distinct records of one modality, each with its first embedding.

  Args:
    embedding_set: embeddings of one split.
    modality: its name.

  Returns:
    The records, in the order of their item ids.

  Raises:
    ValueError: if one record carries two different labels.
  """
  column = embedding_set.modalities.index(modality)
  return _distinct(
    embedding_set.embeddings[:, column],
    embedding_set.items[:, [column]],
    embedding_set.where[:, column],
    embedding_set.labels,
    modality,
  )


def direction_records(
  embedding_set: EmbeddingSet, *, without: str | None = None
) -> Records:
  """Distinct leading directions: what an instance's modalities agree on.

  The direction is the normalised sum of the present modalities
  (`orientation="consensus"`), so its sign is theirs.

  Args:
    embedding_set: embeddings of one split.
    without: a modality to leave out, or None.

  Returns:
    One record per distinct combination of items.
  """
  where = np.array(embedding_set.where)
  if without is not None:
    where[:, embedding_set.modalities.index(without)] = False
  _, directions = spectra(embedding_set, where, orientation="consensus")
  return _distinct(
    directions,
    np.where(where, embedding_set.items, -1),
    np.any(where, axis=1),
    embedding_set.labels,
    REST,
  )


def spectra(
  embedding_set: EmbeddingSet,
  where: np.ndarray,
  *,
  orientation: Literal["free", "consensus"],
) -> tuple[np.ndarray, np.ndarray]:
  """Singular values and leading direction of every instance.

  Args:
    embedding_set: embeddings of one split.
    where: `[instance, modality]` bool: the modalities to use.
    orientation: as in `pmrl_jax.losses.singular_spectrum`.

  Returns:
    Singular values `[instance, modality]`, leading directions
    `[instance, dim]`.
  """
  # The shape is the same whatever is left out: one compilation serves all.
  spectrum = _singular_spectrum(
    np.asarray(embedding_set.embeddings, np.float32),
    where=where,
    orientation=orientation,
  )
  return (
    np.asarray(spectrum.singular_values),
    np.asarray(spectrum.leading_direction),
  )


_singular_spectrum = jax.jit(
  losses.singular_spectrum, static_argnames="orientation"
)


def _distinct(
  vectors: np.ndarray,
  items: np.ndarray,
  present: np.ndarray,
  labels: np.ndarray | None,
  name: str,
) -> Records:
  """Keeps the first of each distinct row of `items` among those present."""
  rows = np.flatnonzero(present)
  distinct, first, inverse = np.unique(
    items[rows], axis=0, return_index=True, return_inverse=True
  )
  inverse = inverse.reshape(-1)
  of_instance = np.full(len(items), -1)
  of_instance[rows] = inverse
  record_labels = None
  if labels is not None:
    record_labels = np.asarray(labels)[rows[first]]
    clash = np.flatnonzero(record_labels[inverse] != labels[rows])
    if clash.size:
      raise ValueError(
        f"item {distinct[inverse[clash[0]]].tolist()} of {name!r} carries the "
        f"labels {record_labels[inverse[clash[0]]]} and "
        f"{labels[rows[clash[0]]]}; give each record one label, or records "
        "with different labels different item ids."
      )
  return Records(
    normalised(vectors[rows[first]]), distinct, record_labels, of_instance
  )
