"""Learned positions and kernels at other sizes than those trained.

The interpolation is that of PyTorch's `interpolate` with `align_corners`
false and no antialiasing, so that a resized checkpoint is what the published
loaders make of it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

METHODS = ("nearest", "bilinear", "bicubic")
_CUBIC = -0.75  # the free coefficient of the kernel, as PyTorch has it


def resize(array: Any, sizes: Mapping[int, int], *, method: str) -> Any:
  """Resizes axes of an array.

  Args:
    array: Any shape, of NumPy or JAX.
    sizes: `{axis: new size}`.
    method: One of `METHODS`. Bilinear and bicubic act along each axis in
      turn, in float32 (float64 stays).

  Returns:
    The array, of the dtype and kind it had. It is the same one if no size
    changes.

  Raises:
    ValueError: If the method is unknown, or a size is not positive.
  """
  xp: Any = jnp if isinstance(array, jax.Array) else np
  dtype = array.dtype
  for axis, size in sizes.items():
    if array.shape[axis] == size:
      continue
    if method == "nearest":
      array = xp.take(array, nearest_indices(array.shape[axis], size), axis)
      continue
    weights = interpolation_matrix(array.shape[axis], size, method=method)
    wide = array.astype(xp.promote_types(dtype, np.float32))
    moved = xp.moveaxis(wide, axis, -1) @ weights.astype(wide.dtype).T
    array = xp.moveaxis(moved, -1, axis)
  return array if array.dtype == dtype else array.astype(dtype)


def resize_positions(
  positions: Any, grid: tuple[int, int], *, method: str
) -> Any:
  """Resizes position embeddings of a square grid of patches.

  Args:
    positions: `[1, 1 + patches, width]`, the class token's first, then the
      patches' row by row.
    grid: The new numbers of rows and columns of patches.
    method: See `resize`.

  Returns:
    `[1, 1 + rows * columns, width]`; the class token's is kept.

  Raises:
    ValueError: If the patches do not form a square.
  """
  side = square_side(positions.shape)
  if (side, side) == tuple(grid):
    return positions
  xp: Any = jnp if isinstance(positions, jax.Array) else np
  width = positions.shape[-1]
  patches = positions[:, 1:].reshape(1, side, side, width)
  patches = resize(patches, {1: grid[0], 2: grid[1]}, method=method)
  return xp.concatenate(
    [positions[:, :1], patches.reshape(1, -1, width)], axis=1
  )


def square_side(shape: tuple[int, ...]) -> int:
  """The side of the grid of positions `[1, 1 + side * side, width]`.

  Raises:
    ValueError: If the shape is another one.
  """
  side = round(max(shape[1] - 1, 0) ** 0.5) if len(shape) == 3 else 0
  if (
    len(shape) != 3 or shape[0] != 1 or shape[1] != 1 + side * side or not side
  ):
    raise ValueError(
      "positions must be [1, 1 + side * side, width] (a class token and a "
      f"square of patches), got {list(shape)}"
    )
  return side


def nearest_indices(size: int, new_size: int) -> np.ndarray:
  """Which of `size` entries each new one copies: int `[new_size]`."""
  _check_sizes(size, new_size)
  return np.arange(new_size) * size // new_size


def interpolation_matrix(
  size: int, new_size: int, *, method: str
) -> np.ndarray:
  """How much of each entry a new one has: float64 `[new_size, size]`.

  Args:
    size: Entries that are there.
    new_size: Entries that are wanted.
    method: `bilinear` or `bicubic`.

  Raises:
    ValueError: If the method is unknown, or a size is not positive.
  """
  _check_sizes(size, new_size)
  centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
  if method == "bilinear":
    centres = np.maximum(centres, 0.0)
    kernel, offsets = _linear, range(0, 2)
  elif method == "bicubic":
    kernel, offsets = _cubic, range(-1, 3)
  else:
    raise ValueError(f"method must be one of {METHODS}, got {method!r}")
  matrix = np.zeros((new_size, size))
  first = np.floor(centres).astype(int)
  for offset in offsets:
    taps = np.clip(first + offset, 0, size - 1)  # the border is repeated
    weights = kernel(np.abs(centres - (first + offset)))
    np.add.at(matrix, (np.arange(new_size), taps), weights)
  return matrix


def _linear(distance: np.ndarray) -> np.ndarray:
  return 1.0 - distance


def _cubic(distance: np.ndarray) -> np.ndarray:
  """The cubic convolution kernel; reference: Keys, 1981."""
  near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
  far = _CUBIC * (((distance - 5) * distance + 8) * distance - 4)
  return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def _check_sizes(*sizes: int) -> None:
  if min(sizes) < 1:
    raise ValueError(f"sizes must be positive, got {list(sizes)}")
