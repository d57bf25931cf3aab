"""Images as NumPy arrays: scaling and random transforms for training."""

from __future__ import annotations

import numpy as np


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
