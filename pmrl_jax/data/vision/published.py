"""The published preprocessing of video frames, reproduced exactly.

Bilinear resizing that reads four pixels per output pixel, in float64, without
antialiasing; then CLIP's mean and standard deviation. What was published is
that of GRAM and VAST: S. Chen et al., "VAST: A Vision-Audio-Subtitle-Text
Omni-Modality Foundation Model and Dataset", arXiv 2305.18500.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from pmrl_jax.data.vision.crops import (
  Box,
  check_box,
  check_frames,
  random_box,
)
from pmrl_jax.data.vision.pixels import CLIP_MEAN, CLIP_STD

_BLOCK = 32


def published_frames(
  rng: np.random.Generator | None,
  frames: np.ndarray,
  *,
  resolution: int = 224,
  transform: Literal["none", "crop_flip"] = "none",
) -> np.ndarray:
  """Returns the frames of one clip as the published encoders expect them.

  "none": resized to a square; the aspect ratio is lost. "crop_flip", in
  training: a square of 80 to 100 % of the area, then mirrored with probability
  1/2, one draw for all frames. Such a square only fits frames up to an aspect
  ratio of 1.25; of wider ones it is always the central square. "crop_flip", in
  evaluation: the short side resized to the resolution, the long one to
  `int(resolution * long / short)`, and the middle of that.

  Args:
    rng: the source of randomness; None for evaluation.
    frames: uint8 `[frame, height, width, 3]`.
    resolution: the height and width to return, in pixels.
    transform: "none" or "crop_flip".

  Returns:
    float32 `[frame, resolution, resolution, 3]`, normalised.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the shape or the transform is another one.
  """
  check_frames(frames)
  height, width = frames.shape[1:3]
  if transform == "none":
    whole = Box(0, 0, height, width)
    return published_crop(frames, whole, flip=False, resolution=resolution)
  if transform != "crop_flip":
    raise ValueError(
      f'expected transform="none" or "crop_flip", got {transform!r}'
    )
  if rng is not None:
    box = random_box(rng, height, width, scale=(0.8, 1.0), ratio=(1.0, 1.0))
    flip = bool(rng.random() < 0.5)
    return published_crop(frames, box, flip=flip, resolution=resolution)
  short = min(height, width)
  rows, columns = (
    _middle(
      _positions(size, int(resolution * size / short)), resolution=resolution
    )
    for size in (height, width)
  )
  return _sample(frames, rows, columns)


def published_crop(
  frames: np.ndarray, box: Box, *, flip: bool, resolution: int
) -> np.ndarray:
  """Cuts, resizes, mirrors and normalises frames as published.

  Args:
    frames: uint8 `[frame, height, width, 3]`.
    box: the part that is kept.
    flip: whether left and right change places.
    resolution: the height and width to return, in pixels.

  Returns:
    float32 `[frame, resolution, resolution, 3]`, normalised.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the shape is another one or the box leaves the frame.
  """
  check_frames(frames)
  check_box(box, frames)
  rows = box.top + _positions(box.height, resolution)
  columns = box.left + _positions(box.width, resolution)
  return _sample(frames, rows, columns[::-1] if flip else columns)


def _positions(size: int, resized: int) -> np.ndarray:
  """Where the centres of `resized` pixels lie among `size` pixels."""
  centres = (np.arange(resized) + 0.5) * (size / resized) - 0.5
  return np.clip(centres, 0, size - 1)


def _middle(positions: np.ndarray, *, resolution: int) -> np.ndarray:
  # round() of a half is the even neighbour, and so it is in what was published.
  start = round((len(positions) - resolution) / 2)
  return positions[start : start + resolution]


def _sample(
  frames: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> np.ndarray:
  """Interpolates frames at rows x columns and normalises them."""
  height, width = frames.shape[1:3]
  top = rows.astype(np.int64)
  bottom = np.minimum(top + 1, height - 1)
  down = (rows - top)[:, None]
  left = columns.astype(np.int64)
  right = np.minimum(left + 1, width - 1)
  # Channels are columns as well: a frame is a matrix [height, width * 3].
  channel = np.arange(3)
  lefts = (left[:, None] * 3 + channel).ravel()
  rights = (right[:, None] * 3 + channel).ravel()
  across = np.repeat(columns - left, 3)
  # (x / 255 - mean) / std as one product and one sum.
  gain = np.tile(1 / (255 * np.asarray(CLIP_STD)), len(columns))
  offset = np.tile(np.asarray(CLIP_MEAN) / CLIP_STD, len(columns))

  def interpolate_across(lines: np.ndarray) -> np.ndarray:
    low = lines.take(lefts, axis=1).astype(np.float64)
    high = lines.take(rights, axis=1).astype(np.float64)
    high -= low
    high *= across
    high += low
    return high

  result = np.empty((len(frames), len(rows), len(lefts)), np.float32)
  for frame, output in zip(frames.reshape(-1, height, width * 3), result):
    # A few rows at a time, so that all stays in a core's cache.
    for start in range(0, len(rows), _BLOCK):
      block = slice(start, start + _BLOCK)
      upper = interpolate_across(frame[top[block]])
      lower = interpolate_across(frame[bottom[block]])
      lower -= upper
      lower *= down[block]
      lower += upper
      lower *= gain
      np.subtract(lower, offset, out=output[block], casting="same_kind")
  return result.reshape(-1, len(rows), len(columns), 3)
