"""Pixels as numbers: scaling, standardising, moving them about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Of CLIP's training images, red, green and blue, on the scale from 0 to 1:
# A. Radford et al., arXiv 2103.00020.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def scale_pixels(images: np.ndarray, *, maximum: int) -> np.ndarray:
  """Scales integer pixels to float32 between 0 and 1.

  Args:
    images: integer pixels from 0 to `maximum`, any shape.
    maximum: the value of full white, such as 255.

  Returns:
    float32 pixels of the same shape.

  Raises:
    ValueError: if a pixel lies outside the range.
  """
  if images.size and (images.min() < 0 or images.max() > maximum):
    raise ValueError(
      f"expected pixels from 0 to {maximum}, got {images.min()} to "
      f"{images.max()}; pass the maximum of this data"
    )
  return images.astype(np.float32) / np.float32(maximum)


def normalise_pixels(
  frames: np.ndarray,
  *,
  mean: Sequence[float] = CLIP_MEAN,
  std: Sequence[float] = CLIP_STD,
) -> np.ndarray:
  """Returns `(frames / 255 - mean) / std`, channel by channel.

  Args:
    frames: uint8 `[..., channel]`.
    mean: one number per channel, on the scale from 0 to 1.
    std: one number per channel, on the same scale.

  Returns:
    float32 of the same shape.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the number of channels differs.
  """
  if frames.dtype != np.uint8:
    raise TypeError(
      f"expected frames as uint8 from 0 to 255, got {frames.dtype}"
    )
  if not len(mean) == len(std) == frames.shape[-1]:
    raise ValueError(
      f"expected a mean and a std for each of the {frames.shape[-1]} channels "
      f"of frames {frames.shape}, got {len(mean)} and {len(std)}"
    )
  scale = 1 / (255 * np.asarray(std))
  normalised = frames * scale.astype(np.float32)
  normalised -= (np.asarray(mean) / std).astype(np.float32)
  return normalised


def random_shift(
  rng: np.random.Generator, image: np.ndarray, *, max_pixels: int
) -> np.ndarray:
  """Moves an image by whole pixels; what moves in is zero.

  Args:
    rng: the source of randomness.
    image: `[height, width, channel]`.
    max_pixels: the largest shift along either axis, in pixels.

  Returns:
    The shifted image, `[height, width, channel]`.

  Raises:
    ValueError: if `max_pixels` is negative.
  """
  if max_pixels < 0:
    raise ValueError(f"max_pixels must not be negative, got {max_pixels}")
  height, width = image.shape[:2]
  # Farther than the image's size, it is out of sight all the same.
  down, right = (
    int(rng.integers(-reach, reach + 1))
    for reach in (min(max_pixels, height), min(max_pixels, width))
  )
  shifted = np.zeros_like(image)
  shifted[max(down, 0) : height + down, max(right, 0) : width + right] = image[
    max(-down, 0) : height - down, max(-right, 0) : width - right
  ]
  return shifted
