"""What an alignment loss did to the space, beyond retrieval.

Alignment (spectrum, cosines of true pairs), sign (the share of true pairs
that point in opposite directions, to which singular values are blind), and
collapse (how alike the directions of different instances are).
"""

import itertools
from typing import NamedTuple

import numpy as np

from pmrl_jax.evaluation.embedding_set import (
  EmbeddingSet,
  check_embedding_set,
  normalised,
  spectra,
)


class PairCosines(NamedTuple):
  """Cosines of the true pairs of two modalities."""

  mean: float
  flipped_share: float  # share of negative cosines
  num_pairs: int  # instances in which both are present


def mean_spectrum(embedding_set: EmbeddingSet) -> np.ndarray | None:
  """Mean singular values of the complete instances.

  Args:
    embedding_set: embeddings of one split.

  Returns:
    `[modality]`, descending: from all 1 (orthogonal modalities) to
    (sqrt(modalities), 0, ...) (aligned up to sign); None if every instance
    lacks a modality, which would lower the values for another reason.

  Raises:
    ValueError: if the set is malformed.
  """
  check_embedding_set(embedding_set)
  complete = embedding_set.where.all(axis=1)
  if not complete.any():
    return None
  values, _ = spectra(embedding_set, embedding_set.where, orientation="free")
  return values[complete].mean(axis=0, dtype=np.float64)


def pair_cosines(
  embedding_set: EmbeddingSet,
) -> dict[tuple[str, str], PairCosines]:
  """Cosines between the modalities of the same instance.

  Args:
    embedding_set: embeddings of one split.

  Returns:
    One entry per unordered pair of modalities that occur together.

  Raises:
    ValueError: if the set is malformed, or no two modalities ever occur
      together.
  """
  check_embedding_set(embedding_set)
  where, names = embedding_set.where, embedding_set.modalities
  unit = normalised(np.where(where[..., None], embedding_set.embeddings, 0.0))
  result = {}
  for i, j in itertools.combinations(range(len(names)), 2):
    both = where[:, i] & where[:, j]
    if both.any():
      cosines = np.einsum("bd,bd->b", unit[both, i], unit[both, j])
      result[names[i], names[j]] = PairCosines(
        float(cosines.mean()), float(np.mean(cosines < 0)), int(both.sum())
      )
  if not result:
    raise ValueError(
      "no instance has two modalities present, so there is no true pair to "
      "compare; check `where`."
    )
  return result


def flipped_share(embedding_set: EmbeddingSet) -> float:
  """Share of the true pairs, over all modalities, with negative cosine.

  Args:
    embedding_set: embeddings of one split.

  Returns:
    A number from 0 to 1; each pair of present modalities counts once.

  Raises:
    ValueError: as `pair_cosines`.
  """
  pairs = pair_cosines(embedding_set).values()
  flipped = sum(pair.flipped_share * pair.num_pairs for pair in pairs)
  return flipped / sum(pair.num_pairs for pair in pairs)


def between_cosine(embedding_set: EmbeddingSet, *, level: str) -> float | None:
  """Mean cosine of the leading directions of different classes or instances.

  Near 0 where classes (instances) are spread out, near 1 where the space has
  collapsed.

  Args:
    embedding_set: embeddings of one split.
    level: "class" or "instance": which directions are compared.

  Returns:
    The mean over all pairs, or None if there is one class (instance) only.

  Raises:
    ValueError: if the set is malformed or the level does not fit it.
  """
  check_embedding_set(embedding_set, level)
  present = embedding_set.where.any(axis=1)
  _, directions = spectra(
    embedding_set, embedding_set.where, orientation="consensus"
  )
  directions = normalised(directions[present])
  groups = np.arange(len(directions))
  if level == "class":
    _, groups = np.unique(embedding_set.labels[present], return_inverse=True)  # type: ignore[index]
  # The sum of all cosines is the squared length of the summed directions, so
  # the mean over pairs takes no matrix of pairs.
  sums = np.zeros((groups.max(initial=0) + 1, directions.shape[1]))
  np.add.at(sums, groups, directions)
  sizes = np.bincount(groups).astype(np.float64)
  num_pairs = sizes.sum() ** 2 - np.square(sizes).sum()
  if num_pairs == 0:
    return None
  total = np.square(sums.sum(axis=0)).sum() - np.square(sums).sum()
  return float(total / num_pairs)
