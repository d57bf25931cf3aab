"""Decoded frames -> RGB arrays: colours, size and orientation in one pass."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from pmrl_jax.data.decoding.container import require_av

# The length of the shorter side, or (height, width); None: as it is.
Size: TypeAlias = int | tuple[int, int] | None


def check_size(size: Size) -> None:
  """Checks a wanted size.

  Raises:
    ValueError: if it is neither None, a positive integer nor two of them.
  """
  if size is None:
    return
  sides = size if isinstance(size, tuple) and len(size) == 2 else (size,)
  if not all(isinstance(side, int) and side > 0 for side in sides):
    raise ValueError(
      "size must be the shorter side in pixels, or (height, width), as 224 or "
      f"(224, 224), got {size!r}"
    )


def scaled(size: Size, height: int, width: int) -> tuple[int, int]:
  """The height and width that a picture is scaled to.

  >>> scaled(224, 480, 854)
  (224, 399)
  """
  if size is None:
    return height, width
  if isinstance(size, tuple):
    return size
  short = min(height, width)
  return (
    max(1, round(height * size / short)),
    max(1, round(width * size / short)),
  )


class Clip:
  """Chosen frames, filled in as they come out of a decoder.

  Attributes:
    indices: int64 `[frame]`, the frames to fill in.
    missing: those of them that are not there yet.
  """

  def __init__(self, indices: np.ndarray, num_frames: int, size: Size):
    """Checks what was chosen; room is made when the first frame comes.

    Args:
      indices: int `[frame]`, in any order, with repetitions or without.
      num_frames: how many frames there are to choose from.
      size: what to scale to.

    Raises:
      ValueError: if there is no such frame.
    """
    self.indices = np.asarray(indices, np.int64)
    outside = (self.indices < 0) | (self.indices >= num_frames)
    if self.indices.ndim != 1 or not self.indices.size or outside.any():
      raise ValueError(
        f"expected indices of some of {num_frames} frames, got {indices}"
      )
    self._different, self._places = np.unique(self.indices, return_inverse=True)
    self.missing = set(self._different.tolist())
    self._numbers = {index: i for i, index in enumerate(self._different)}
    self._pixels: np.ndarray | None = None
    self._size = size
    # One for all frames, since its tables take longer than a frame does.
    self._reformatter = require_av().video.reformatter.VideoReformatter()

  def put(self, index: int, frame: Any) -> None:
    """Converts a frame of PyAV, if it is one that is missing.

    All have the size of the first, should it change in the middle of a stream.
    """
    if index not in self.missing:
      return
    turns = _quarter_turns(frame)
    height, width = frame.height, frame.width
    if turns % 2:
      height, width = width, height
    if self._pixels is None:
      shape = scaled(self._size, height, width)
      self._pixels = np.empty((len(self._different), *shape, 3), np.uint8)
    height, width = self._pixels.shape[1:3]
    if turns % 2:
      height, width = width, height
    pixels = self._rgb(frame, height, width)
    self._pixels[self._numbers[index]] = np.rot90(pixels, turns)
    self.missing.remove(index)

  def frames(self) -> np.ndarray:
    """The frames once none is missing: `[frame, height, width, channel]`."""
    if self._pixels is None or self.missing:
      raise RuntimeError(f"frames {sorted(self.missing)} are not there yet")
    if np.array_equal(self.indices, self._different):
      return self._pixels
    return self._pixels[self._places]

  def _rgb(self, frame: Any, height: int, width: int) -> np.ndarray:
    """A frame as `[height, width, channel]`, without a copy of its own."""
    rgb = self._reformatter.reformat(
      frame,
      width=width,
      height=height,
      format="rgb24",
      interpolation="BILINEAR",
      threads=1,
    )
    plane = rgb.planes[0]
    lines = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
    return lines[:, : 3 * width].reshape(height, width, 3)


def _quarter_turns(frame: Any) -> int:
  """How often a frame is to be turned left to be upright: 0 to 3."""
  turns, rest = divmod(frame.rotation, 90)
  return 0 if rest else turns % 4
