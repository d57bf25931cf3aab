"""What the published loaders resize when a checkpoint has other sizes."""

from collections.abc import Callable, Mapping

import numpy as np

from pmrl_jax.encoders.resize import resize, resize_positions, square_side
from pmrl_jax.weights.tensors import LazyTensor

# {pattern of keys: (tensor, shape) -> tensor of that shape, or the same one
# if it cannot be}.
Resizing = Mapping[str, Callable[[LazyTensor, tuple[int, ...]], LazyTensor]]


def _axes(*axes: int, method: str) -> Callable:
  """Resizes some axes; if others differ, the tensor does not fit."""

  def change(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    if not _differ_only(tensor.shape, shape, axes):
      return tensor
    sizes = {axis: shape[axis] for axis in axes}
    return tensor.changed(
      lambda array: resize(array, sizes, method=method), shape=shape
    )

  return change


def _positions(method: str) -> Callable:
  """Resizes positions `[1, 1 + patches, width]` of a square grid."""

  def change(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    if not _differ_only(tensor.shape, shape, (1,)):
      return tensor
    square_side(tensor.shape)
    side = square_side(shape)
    return tensor.changed(
      lambda array: resize_positions(
        np.asarray(array), (side, side), method=method
      ),
      shape=shape,
    )

  return change


def _differ_only(
  shape: tuple[int, ...], other: tuple[int, ...], axes: tuple[int, ...]
) -> bool:
  """Whether two shapes differ, and in these axes only."""
  if len(shape) != len(other):
    return False
  differing = [i for i in range(len(shape)) if shape[i] != other[i]]
  return bool(differing) and set(differing) <= set(axes)


# A checkpoint of the whole model, with other frames or images.
PUBLISHED: Resizing = {
  "*_frame_embedding": _axes(1, method="nearest"),
  "*visual.pos_embed": _positions("bilinear"),
}
# A file of EVA-CLIP, with other images or patches.
EVA_CLIP: Resizing = {
  "*visual.pos_embed": _positions("bicubic"),
  "*visual.patch_embed.proj.weight": _axes(2, 3, method="bicubic"),
}
