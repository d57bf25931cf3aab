"""Feature vectors as NumPy arrays: standardisation and noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
  """What a table's columns are standardised by."""

  mean: np.ndarray  # float64 [feature]
  std: np.ndarray  # float64 [feature], 1 where a column is constant


def column_statistics(values: np.ndarray) -> Statistics:
  """Returns the mean and the standard deviation of every column.

  Take them from the training split only and use them on every split.

  Args:
    values: `[row, feature]`.

  Returns:
    The statistics; a constant column gets 1 as deviation, so that
    standardising turns it into zeros.
  """
  values = np.asarray(values, np.float64)
  std = values.std(axis=0)
  # Rounding leaves a tiny deviation in a column that is constant.
  constant = np.ptp(values, axis=0) == 0
  return Statistics(values.mean(axis=0), np.where(constant, 1.0, std))


def standardise(values: np.ndarray, statistics: Statistics) -> np.ndarray:
  """Returns `(values - mean) / std` as float32, `[row, feature]`."""
  return ((values - statistics.mean) / statistics.std).astype(np.float32)


def random_gaussian_noise(
  rng: np.random.Generator, features: np.ndarray, *, std: float
) -> np.ndarray:
  """Adds independent Gaussian noise to every feature.

  Args:
    rng: the source of randomness.
    features: float32, any shape.
    std: the noise's standard deviation, in the unit of the features.

  Returns:
    The noisy features, of the same shape.

  Raises:
    ValueError: if `std` is negative.
  """
  if std < 0:
    raise ValueError(f"std must not be negative, got {std}")
  noise = rng.standard_normal(features.shape, dtype=np.float32)
  return features + np.float32(std) * noise
