"""Random changes of colour, the same ones for all frames of a clip."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from pmrl_jax.data.vision.crops import check_frames


def random_colour_jitter(
  rng: np.random.Generator,
  frames: np.ndarray,
  *,
  brightness: float = 0.4,
  contrast: float = 0.4,
  saturation: float = 0.2,
  hue: float = 0.1,
) -> np.ndarray:
  """Changes brightness, contrast, saturation and hue in a random order.

  The first three are multiplied by a factor that is uniform between
  `1 - strength` and `1 + strength`; hues are turned by a share of the circle
  that is uniform between `-hue` and `hue`. Texts that name colours forbid much
  of it.

  Args:
    rng: the source of randomness.
    frames: uint8 `[frame, height, width, 3]`.
    brightness: the strength, from 0 (unchanged) to 1.
    contrast: the strength, from 0 to 1.
    saturation: the strength, from 0 to 1.
    hue: the largest turn, from 0 to 0.5.

  Returns:
    uint8 `[frame, height, width, 3]`.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the shape is another one or a strength is out of range.

  Reference: T. Chen et al., "A Simple Framework for Contrastive Learning of
  Visual Representations", arXiv 2002.05709.
  """
  check_frames(frames)
  changes: list[Callable[[Image.Image], Image.Image]] = []
  for name, strength, enhancer in (
    ("brightness", brightness, ImageEnhance.Brightness),
    ("contrast", contrast, ImageEnhance.Contrast),
    ("saturation", saturation, ImageEnhance.Color),
  ):
    if not 0 <= strength <= 1:
      raise ValueError(f"expected {name} from 0 to 1, got {strength}")
    factor = rng.uniform(1 - strength, 1 + strength)
    if strength:
      change = functools.partial(_enhance, enhancer=enhancer, factor=factor)
      changes.append(change)
  if not 0 <= hue <= 0.5:
    raise ValueError(f"expected hue from 0 to 0.5, got {hue}")
  turn = round(256 * rng.uniform(-hue, hue))
  if hue:
    changes.append(functools.partial(_turn_hue, turn=turn))
  order = rng.permutation(len(changes))
  return map_images(frames, [changes[i] for i in order])


def map_images(
  frames: np.ndarray, changes: Sequence[Callable[[Image.Image], Image.Image]]
) -> np.ndarray:
  """Applies changes to each frame, in order; they keep its size and mode."""
  result = np.empty_like(frames, order="C")
  for frame, out in zip(frames, result):
    image = Image.fromarray(frame)
    for change in changes:
      image = change(image)
    out[...] = np.asarray(image)
  return result


def _enhance(
  image: Image.Image,
  *,
  enhancer: Callable[[Image.Image], Any],
  factor: float,
) -> Image.Image:
  return enhancer(image).enhance(factor)


def _turn_hue(image: Image.Image, *, turn: int) -> Image.Image:
  hue, saturation, value = image.convert("HSV").split()
  turned = hue.point([(i + turn) % 256 for i in range(256)])
  return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
