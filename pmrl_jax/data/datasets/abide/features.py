"""Numbers for every subject, and the cells that they are read from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class FeatureTable(NamedTuple):
  """One modality of all subjects."""

  values: np.ndarray  # float32 [subject, column], NaN where missing
  columns: tuple[str, ...]
  scaled: np.ndarray  # bool [column]: quantities, not yes or no
  where: np.ndarray  # bool [subject]: who has anything of it
  notes: list[str]


def quantities(
  values: np.ndarray, columns: tuple[str, ...], notes: list[str]
) -> FeatureTable:
  """Returns a table of quantities; who has no finite one is absent."""
  return FeatureTable(
    values.astype(np.float32),
    columns,
    np.ones(len(columns), bool),
    np.isfinite(values).any(axis=1),
    notes,
  )


def is_missing(cell: str) -> bool:
  """Whether a cell holds nothing: empty, NaN, or -9999."""
  if cell.strip().lower() in ("", "na", "n/a", "nan", "none"):
    return True
  return number(cell) == -9999


def number(cell: str) -> float | None:
  """Returns the number that a cell holds, if it does."""
  try:
    return float(cell)
  except ValueError:
    return None
