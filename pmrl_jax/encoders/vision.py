"""Images: the vision transformer (ViT)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.transformer import Transformer, masked_mean


class VisionTransformer(nn.Module):
  """A ViT with learned positions and mean pooling instead of a class token.

  Reference: Dosovitskiy et al., An Image Is Worth 16x16 Words, arXiv
  2010.11929; mean pooling as in Beyer et al., Better plain ViT baselines for
  ImageNet-1k, arXiv 2205.01580.

  Attributes:
    patch_size: Side of a square patch in pixels.
    width: Token width.
    depth: Number of transformer blocks.
    num_heads: Attention heads.
    mlp_ratio: Hidden width of the MLP over the width.
    dropout_rate: Dropout on the residual branches.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  patch_size: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: float = 4.0
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Encodes images.

    Args:
      images: Float `[batch, height, width, channel]`, about unit scale.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the input is no batch of images or its sides are no
        multiples of the patch size.
    """
    if images.ndim != 4:
      raise ValueError(
        "VisionTransformer expects images [batch, height, width, channel], "
        f"got shape {images.shape}"
      )
    b, h, w, c = images.shape
    p = self.patch_size
    if h % p or w % p:
      raise ValueError(
        f"image sides must be multiples of the patch size, got {h}x{w} pixels "
        f"and patch_size {p}; resize the images or choose another patch size"
      )
    patches = images.reshape(b, h // p, p, w // p, p, c)
    patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, p * p * c)
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    tokens = nn.Dense(self.width, **types, name="patch_embedding")(patches)
    tokens = Transformer(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      dropout_rate=self.dropout_rate,
      **types,
      name="transformer",
    )(tokens, train=train)
    return masked_mean(tokens)
