"""Reading the public raw files, with errors that say how to obtain them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np


def read_table(
  path: str | os.PathLike[str],
  *,
  num_rows: int,
  num_columns: int,
  delimiter: str | None,
  obtain: str,
) -> np.ndarray:
  """Reads a text table of numbers whose size is known.

  The whole size is checked, so that an interrupted download or another
  version of the data is noticed before anything is written.

  Args:
    path: the text file, one row per line.
    num_rows: the official number of lines.
    num_columns: the official number of values per line.
    delimiter: what separates the values; None means any white space.
    obtain: a sentence that says where the file comes from.

  Returns:
    The values as float64, `[num_rows, num_columns]`.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the file is not a table of numbers of that size.
  """
  expected = f"a text table of {num_rows} rows with {num_columns} numbers each"
  if not os.path.isfile(path):
    raise FileNotFoundError(
      f"{os.fspath(path)} is missing; expected {expected}. {obtain}"
    )
  if not os.path.getsize(path):
    raise ValueError(
      f"{os.fspath(path)} is empty; expected {expected}. {obtain}"
    )
  try:
    table = np.loadtxt(path, delimiter=delimiter, ndmin=2)
  except ValueError as error:
    raise ValueError(
      f"{os.fspath(path)} is malformed; expected {expected}, but: {error}. "
      f"{obtain}"
    ) from error
  if table.shape != (num_rows, num_columns):
    raise ValueError(
      f"{os.fspath(path)} is malformed; expected {expected}, got "
      f"{table.shape[0]} rows with {table.shape[1]}. {obtain}"
    )
  return table


def cast(
  table: np.ndarray,
  *,
  dtype: type[np.number],
  name: str,
  obtain: str,
  rounding: bool = False,
  maximum: float | None = None,
) -> np.ndarray:
  """Casts a table after checking that its values fit the type.

  Args:
    table: float64 values of any shape.
    dtype: the type to return.
    name: the file the values come from, for the message.
    obtain: a sentence that says where the file comes from.
    rounding: whether fractions are rounded; if not, an integer type admits
      whole numbers only.
    maximum: the largest value allowed, where the type's own limit is too lax.

  Returns:
    The values as `dtype`.

  Raises:
    ValueError: if a value is not finite, out of range, or no whole number.
  """
  is_integer = np.issubdtype(dtype, np.integer)
  limits: Any = (np.iinfo if is_integer else np.finfo)(dtype)
  high = limits.max if maximum is None else maximum
  values = np.rint(table) if is_integer and rounding else table
  good = (values >= limits.min) & (values <= high)
  kind = "numbers"
  if is_integer:
    kind = "whole numbers"
    good &= values == np.floor(values)
  if not good.all():
    row = int(np.argwhere(~good)[0][0])
    raise ValueError(
      f"{name} is malformed; expected {kind} from {limits.min} to {high}, got "
      f"{values[~good][0]} in row {row + 1}. {obtain}"
    )
  return values.astype(dtype)
