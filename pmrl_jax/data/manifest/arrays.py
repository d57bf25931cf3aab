"""Files of one array, `.npy`: never pickles."""

from __future__ import annotations

import pathlib

import numpy as np


def read_array(path: pathlib.Path) -> np.ndarray:
  """Reads the array of a `.npy` file.

  Args:
    path: the file.

  Returns:
    float32, of the shape in the file; a single number becomes `[1]`.

  Raises:
    ValueError: if there is no such file, it is no array of numbers (pickles
      are refused), or holds none, or one that is not finite.
  """
  array = _open(path, mmap_mode=None)
  with np.errstate(over="ignore"):
    array = np.atleast_1d(array).astype(np.float32)
  if not np.isfinite(array).all():
    raise ValueError(f"{path}: expected finite numbers, got NaN or infinity")
  return array


def probe_array(path: pathlib.Path) -> tuple[int, ...]:
  """Returns the shape that `read_array` gives, from the header.

  Raises:
    ValueError: if the header is wrong or the file too short for it.
  """
  return np.atleast_1d(_open(path, mmap_mode="r")).shape


def _open(path: pathlib.Path, mmap_mode: str | None) -> np.ndarray:
  if path.exists() and not path.is_file():  # a pipe would wait forever
    raise ValueError(f"{path}: it is no file")
  try:
    array = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)  # type: ignore[arg-type]
  except FileNotFoundError:
    raise ValueError(f"{path}: there is no such file") from None
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f"{path}: it is no .npy file of numbers: {error}"
    ) from None
  if not isinstance(array, np.ndarray):
    array.close()
    raise ValueError(f"{path}: it holds several arrays, expected one (.npy)")
  if array.dtype.kind not in "fiub":
    raise ValueError(f"{path}: expected real numbers, got {array.dtype}")
  if not array.size:
    raise ValueError(f"{path}: the array of shape {array.shape} is empty")
  return array
