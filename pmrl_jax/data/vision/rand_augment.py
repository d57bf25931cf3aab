"""RandAugment: a few operations of one strength, drawn from a fixed list.

E. D. Cubuk et al., "RandAugment: Practical automated data augmentation with a
reduced search space", arXiv 1909.13719. What the strengths mean is in E. D.
Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", arXiv
1805.09501.

The operations are Pillow's. The libraries that offer more are either no longer
kept (Albumentations, imgaug), licensed such that this project cannot build on
them (AlbumentationsX), or part of another framework.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from pmrl_jax.data.vision.colour import map_images
from pmrl_jax.data.vision.crops import check_frames

# What moves in at the border.
_GREY = (128, 128, 128)


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
  return image.transform(
    image.size,
    Image.Transform.AFFINE,
    matrix,
    Image.Resampling.BILINEAR,
    fillcolor=_GREY,
  )


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
  slope = 0.3 * strength
  # About the middle row, so that the image stays where it is.
  return _affine(image, 1, slope, -slope * image.height / 2, 0, 1, 0)


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
  slope = 0.3 * strength
  return _affine(image, 1, 0, 0, slope, 1, -slope * image.width / 2)


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
  return _affine(image, 1, 0, round(0.45 * strength * image.width), 0, 1, 0)


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
  return _affine(image, 1, 0, 0, 0, 1, round(0.45 * strength * image.height))


def _rotate(image: Image.Image, strength: float) -> Image.Image:
  return image.rotate(30 * strength, Image.Resampling.BILINEAR, fillcolor=_GREY)


def _solarize(image: Image.Image, strength: float) -> Image.Image:
  return ImageOps.solarize(image, round(256 * (1 - abs(strength))))


def _posterize(image: Image.Image, strength: float) -> Image.Image:
  return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


# Name -> what it does with a strength from -1 to 1; 0 changes nothing, save for
# the two that have no strength.
_OPERATIONS: dict[str, Callable[..., Image.Image]] = {
  "identity": lambda image, strength: image,
  "autocontrast": lambda image, strength: ImageOps.autocontrast(image),
  "equalize": lambda image, strength: ImageOps.equalize(image),
  "rotate": _rotate,
  "solarize": _solarize,
  "posterize": _posterize,
  "color": lambda image, strength: ImageEnhance.Color(image).enhance(
    1 + 0.9 * strength
  ),
  "contrast": lambda image, strength: ImageEnhance.Contrast(image).enhance(
    1 + 0.9 * strength
  ),
  "brightness": lambda image, strength: ImageEnhance.Brightness(image).enhance(
    1 + 0.9 * strength
  ),
  "sharpness": lambda image, strength: ImageEnhance.Sharpness(image).enhance(
    1 + 0.9 * strength
  ),
  "shear_x": _shear_x,
  "shear_y": _shear_y,
  "translate_x": _translate_x,
  "translate_y": _translate_y,
}

OPERATIONS = tuple(_OPERATIONS)


def random_augment(
  rng: np.random.Generator,
  frames: np.ndarray,
  *,
  num_operations: int = 2,
  magnitude: float = 9.0,
  operations: Sequence[str] = OPERATIONS,
) -> np.ndarray:
  """Applies random operations, the same ones to all frames of a clip.

  Args:
    rng: the source of randomness.
    frames: uint8 `[frame, height, width, 3]`.
    num_operations: how many are drawn, with replacement (the paper's N).
    magnitude: their strength from 0 to 10 (the paper's M); its sign is drawn
      for each.
    operations: the names to draw from. Where a text tells colours, leave out
      "color", "solarize", "posterize" and "equalize".

  Returns:
    uint8 `[frame, height, width, 3]`.

  Raises:
    TypeError: if the frames are not uint8.
    ValueError: if the shape is another one, the magnitude is out of range, or
      an operation is unknown.
  """
  check_frames(frames)
  unknown = set(operations) - set(OPERATIONS)
  if unknown or not operations:
    raise ValueError(
      f"expected operations out of {', '.join(OPERATIONS)}; got "
      f"{', '.join(map(repr, sorted(unknown))) or 'none'}"
    )
  if not 0 <= magnitude <= 10:
    raise ValueError(f"expected a magnitude from 0 to 10, got {magnitude}")
  if num_operations < 0:
    raise ValueError(
      f"num_operations must not be negative, got {num_operations}"
    )
  changes = []
  for index in rng.integers(0, len(operations), num_operations):
    strength = magnitude / 10 * (1 if rng.random() < 0.5 else -1)
    operation = _OPERATIONS[operations[index]]
    changes.append(functools.partial(operation, strength=strength))
  return map_images(frames, changes)
