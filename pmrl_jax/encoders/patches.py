"""Images to tokens: patches, a class token, learned positions.

Reference: Dosovitskiy et al., An Image Is Worth 16x16 Words, arXiv
2010.11929; patch dropout as in Li et al., Scaling Language-Image Pre-training
via Masking, arXiv 2212.00794.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.initializers import torch_bias, torch_kernel
from pmrl_jax.encoders.resize import resize_positions

CHANNELS = 3


class PatchTokens(nn.Module):
  """Cuts images into patches and makes tokens of them.

  Attributes:
    image_size: Side of the images in pixels that there are positions for.
      Of images of other sizes the positions are interpolated.
    patch_size: Side of a square patch in pixels.
    width: Token width.
    stddev: Of the class token and the positions when training starts.
    use_bias: Whether the projection of the patches has a bias.
    interpolation: How positions are resized; see `resize_positions`.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  image_size: int
  patch_size: int
  width: int
  stddev: float
  use_bias: bool = True
  interpolation: str = "bicubic"
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    """Makes tokens of images.

    Args:
      images: Float `[batch, height, width, channel]`, three channels.

    Returns:
      `[batch, 1 + patches, width]` in `dtype`: the class token, then the
      patches row by row.

    Raises:
      ValueError: If the input is no batch of colour images or a side is no
        multiple of the patch size.
    """
    grid = patch_grid(images.shape, self.patch_size)
    side, p = self.image_size // self.patch_size, self.patch_size
    normal = nn.initializers.normal(self.stddev)
    patches = nn.Conv(
      self.width,
      kernel_size=(p, p),
      strides=(p, p),
      padding="VALID",
      use_bias=self.use_bias,
      kernel_init=torch_kernel,
      bias_init=torch_bias(CHANNELS * p * p),
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="projection",
    )(images)
    patches = patches.reshape(len(images), -1, self.width)
    self.sow("intermediates", "patches", patches)
    types: Any = self.param_dtype
    first = self.param("class_token", normal, (1, 1, self.width), types)
    positions = self.param(
      "positions", normal, (1, 1 + side * side, self.width), types
    )
    positions = resize_positions(positions, grid, method=self.interpolation)
    first = jnp.broadcast_to(first, (len(images), 1, self.width))
    tokens = jnp.concatenate([first.astype(self.dtype), patches], axis=1)
    tokens = tokens + positions.astype(self.dtype)
    self.sow("intermediates", "tokens", tokens)
    return tokens


def patch_grid(shape: tuple[int, ...], patch_size: int) -> tuple[int, int]:
  """Rows and columns of the patches of images.

  Args:
    shape: `(batch, height, width, channel)`.
    patch_size: Side of a square patch in pixels.

  Raises:
    ValueError: If that is not the shape of colour images, or a side is no
      multiple of the patch size.
  """
  if len(shape) != 4 or shape[3] != CHANNELS:
    raise ValueError(
      f"expected images [batch, height, width, {CHANNELS}], got shape "
      f"{shape}; PyTorch's [batch, {CHANNELS}, height, width] must be "
      "transposed, and the frames of videos reshaped into the batch"
    )
  _, height, width, _ = shape
  if not height or not width or height % patch_size or width % patch_size:
    raise ValueError(
      f"image sides must be multiples of the patch size, got {height}x{width} "
      f"pixels and patch_size {patch_size}; resize the images"
    )
  return height // patch_size, width // patch_size


def drop_patches(
  tokens: jax.Array, rate: float, *, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Keeps a random choice of the patches of every image, and its class token.

  Args:
    tokens: `[batch, 1 + patches, width]`.
    rate: The share of the patches that are dropped; at least one stays.
    key: Random key.

  Returns:
    The tokens that are kept `[batch, 1 + kept, width]`, and which ones of all
    they are: int `[batch, 1 + kept]`, in order, 0 first.
  """
  batch, length, _ = tokens.shape
  num_kept = max(1, int((length - 1) * (1 - rate)))
  chances = jax.random.uniform(key, (batch, length - 1))
  kept = 1 + jnp.sort(jax.lax.top_k(chances, num_kept)[1], axis=1)
  kept = jnp.concatenate([jnp.zeros_like(kept[:, :1]), kept], axis=1)
  return jnp.take_along_axis(tokens, kept[..., None], axis=1), kept
