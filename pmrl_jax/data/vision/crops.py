"""Which part of a frame is seen, and at what size: antialiased by Pillow."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image


class Box(NamedTuple):
  """A part of a frame, in pixels."""

  top: int
  left: int
  height: int
  width: int


def random_box(
  rng: np.random.Generator,
  height: int,
  width: int,
  *,
  scale: tuple[float, float],
  ratio: tuple[float, float],
) -> Box:
  """Draws a part of a frame by its area and its aspect ratio.

  The share of the area is uniform, the ratio log-uniform, the place uniform
  among those where it fits. After ten draws that fit nowhere it is the largest
  part in the middle whose ratio is allowed.

  Args:
    rng: the source of randomness.
    height: of the frame, in pixels.
    width: of the frame, in pixels.
    scale: the smallest and the largest share of the frame's area.
    ratio: the smallest and the largest width / height.

  Returns:
    The box, within the frame.

  Raises:
    ValueError: if a range is empty or not positive.

  Reference: C. Szegedy et al., "Going Deeper with Convolutions", arXiv
  1409.4842.
  """
  for name, (low, high) in (("scale", scale), ("ratio", ratio)):
    if not 0 < low <= high:
      raise ValueError(
        f"expected {name}=(smallest, largest), both positive, got "
        f"({low}, {high})"
      )
  for _ in range(10):
    area = height * width * rng.uniform(*scale)
    aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
    box_width = round(math.sqrt(area * aspect))
    box_height = round(math.sqrt(area / aspect))
    if 0 < box_width <= width and 0 < box_height <= height:
      top = int(rng.integers(0, height - box_height, endpoint=True))
      left = int(rng.integers(0, width - box_width, endpoint=True))
      return Box(top, left, box_height, box_width)
  box_height, box_width = height, width
  if width / height < ratio[0]:
    box_height = max(1, round(width / ratio[0]))
  elif width / height > ratio[1]:
    box_width = max(1, round(height * ratio[1]))
  return Box(
    (height - box_height) // 2, (width - box_width) // 2, box_height, box_width
  )


def resize_frames(
  frames: np.ndarray, *, resolution: int, box: Box | None = None
) -> np.ndarray:
  """Resizes frames to a square with an antialiased bicubic filter.

  The filter widens with the reduction, so that every source pixel counts. Of
  the 41 pixels that become one when 1920x1080 is seen at 224x224, the
  published resizing reads 4, and fine patterns turn into false coarse ones.

  Args:
    frames: uint8 `[frame, height, width, 3]`.
    resolution: the height and width to return, in pixels.
    box: the part that is kept; None keeps all. The aspect ratio is not kept
      unless the box is a square.

  Returns:
    uint8 `[frame, resolution, resolution, 3]`.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the shape is another one, the box leaves the frame, or the
      resolution is not positive.

  Reference: G. Parmar et al., "On Aliased Resizing and Surprising Subtleties
  in GAN Evaluation", arXiv 2104.11222.
  """
  check_frames(frames)
  height, width = frames.shape[1:3]
  box = box or Box(0, 0, height, width)
  check_box(box, frames)
  if resolution < 1:
    raise ValueError(f"expected a positive resolution, got {resolution}")
  resized = np.empty((len(frames), resolution, resolution, 3), np.uint8)
  rows = slice(box.top, box.top + box.height)
  columns = slice(box.left, box.left + box.width)
  for frame, result in zip(frames, resized):
    # Cut first: Pillow's own box lets the filter see what lies around it.
    image = Image.fromarray(frame[rows, columns]).resize(
      (resolution, resolution), Image.Resampling.BICUBIC
    )
    result[...] = np.asarray(image)
  return resized


def centre_crop(frames: np.ndarray, *, resolution: int) -> np.ndarray:
  """Returns the central square of frames, resized as by `resize_frames`.

  Args:
    frames: uint8 `[frame, height, width, 3]`.
    resolution: the height and width to return, in pixels.

  Returns:
    uint8 `[frame, resolution, resolution, 3]`.
  """
  check_frames(frames)
  height, width = frames.shape[1:3]
  side = min(height, width)
  box = Box((height - side) // 2, (width - side) // 2, side, side)
  return resize_frames(frames, resolution=resolution, box=box)


def random_resized_crop(
  rng: np.random.Generator,
  frames: np.ndarray,
  *,
  resolution: int,
  scale: tuple[float, float] = (0.5, 1.0),
  ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> np.ndarray:
  """Resizes one random part of all frames to a square (see `random_box`).

  Args:
    rng: the source of randomness.
    frames: uint8 `[frame, height, width, 3]`.
    resolution: the height and width to return, in pixels.
    scale: the smallest and the largest share of the area. Classification
      begins at 0.08; where a text tells what is seen, more has to stay.
    ratio: the smallest and the largest width / height.

  Returns:
    uint8 `[frame, resolution, resolution, 3]`.
  """
  check_frames(frames)
  height, width = frames.shape[1:3]
  box = random_box(rng, height, width, scale=scale, ratio=ratio)
  return resize_frames(frames, resolution=resolution, box=box)


def random_horizontal_flip(
  rng: np.random.Generator, frames: np.ndarray, *, probability: float = 0.5
) -> np.ndarray:
  """Mirrors all frames or none; texts with left and right in them forbid it.

  Args:
    rng: the source of randomness.
    frames: `[..., height, width, channel]`.
    probability: how often they are mirrored, from 0 to 1.

  Returns:
    A view of the frames.

  Raises:
    ValueError: if the probability is out of range.
  """
  if not 0 <= probability <= 1:
    raise ValueError(f"expected a probability from 0 to 1, got {probability}")
  return frames[..., ::-1, :] if rng.random() < probability else frames


def check_frames(frames: np.ndarray) -> None:
  """Raises an error unless frames are uint8 `[frame, height, width, 3]`."""
  if frames.dtype != np.uint8:
    raise TypeError(
      f"expected frames as uint8 from 0 to 255, got {frames.dtype}; decode "
      "them with read_video or read_image, and normalise them last"
    )
  if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:3]:
    raise ValueError(
      f"expected frames [frame, height, width, 3], got shape {frames.shape}; "
      "one image is image[None]"
    )


def check_box(box: Box, frames: np.ndarray) -> None:
  """Raises an error unless a box is a part of `[frame, height, width, 3]`."""
  height, width = frames.shape[1:3]
  if not (
    0 <= box.top < box.top + box.height <= height
    and 0 <= box.left < box.left + box.width <= width
  ):
    raise ValueError(
      f"expected a box within frames of {height}x{width} pixels, got {box}"
    )
