"""Tensors of a checkpoint that are read when they are asked for."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jax.typing import DTypeLike


class LazyTensor(NamedTuple):
  """A tensor whose shape is known and whose values are still in a file.

  Attributes:
    shape: Of the array.
    dtype: Of the array.
    read: Reads it; each call reads anew.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    """Bytes of the array."""
    return math.prod(self.shape) * self.dtype.itemsize

  def changed(
    self,
    change: Callable[[np.ndarray], np.ndarray],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike | None = None,
  ) -> "LazyTensor":
    """Returns the tensor that is changed once it is read.

    Args:
      change: What is done with the array.
      shape: The shape after it; none: as before.
      dtype: The dtype after it; none: as before.
    """
    return LazyTensor(
      self.shape if shape is None else shape,
      self.dtype if dtype is None else np.dtype(dtype),
      lambda: change(self.read()),
    )


# A state dict: arrays, or tensors that are still in a file.
Tensors = Mapping[str, Any]


def lazy(tensor: Any) -> LazyTensor:
  """An array as a tensor that only seems to be in a file."""
  if isinstance(tensor, LazyTensor):
    return tensor
  return LazyTensor(
    tuple(tensor.shape), np.dtype(tensor.dtype), lambda: np.asarray(tensor)
  )


def stand_in(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
  """An array of a shape and dtype that takes no memory."""
  return np.broadcast_to(np.zeros((), dtype), shape)
