"""Frames and images as NumPy arrays, `[frame, height, width, channel]`.

- `scale_pixels`, `normalise_pixels`: integers to floats
- `published_frames`: the published preprocessing, exactly
- `resize_frames`, `centre_crop`, `random_resized_crop`: antialiased
- `random_shift`, `random_horizontal_flip`, `random_colour_jitter`,
  `random_augment` (RandAugment): for training

One draw serves all frames of a clip.
"""

from pmrl_jax.data.vision.colour import random_colour_jitter
from pmrl_jax.data.vision.crops import (
  Box,
  centre_crop,
  random_box,
  random_horizontal_flip,
  random_resized_crop,
  resize_frames,
)
from pmrl_jax.data.vision.pixels import (
  CLIP_MEAN,
  CLIP_STD,
  normalise_pixels,
  random_shift,
  scale_pixels,
)
from pmrl_jax.data.vision.published import (
  published_crop,
  published_frames,
)
from pmrl_jax.data.vision.rand_augment import OPERATIONS, random_augment

__all__ = [
  "Box",
  "CLIP_MEAN",
  "CLIP_STD",
  "OPERATIONS",
  "centre_crop",
  "normalise_pixels",
  "published_crop",
  "published_frames",
  "random_augment",
  "random_box",
  "random_colour_jitter",
  "random_horizontal_flip",
  "random_resized_crop",
  "random_shift",
  "resize_frames",
  "scale_pixels",
]
