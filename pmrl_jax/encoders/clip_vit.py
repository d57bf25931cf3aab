"""The visual tower of CLIP: a vision transformer.

Reference: Radford et al., Learning Transferable Visual Models From Natural
Language Supervision, arXiv 2103.00020; the larger ones are those of OpenCLIP,
Cherti et al., arXiv 2212.07143.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.attention import check_heads
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.initializers import torch_bias, torch_kernel
from pmrl_jax.encoders.layer_norm import LayerNorm
from pmrl_jax.encoders.patches import PatchTokens, drop_patches
from pmrl_jax.encoders.stack import apply_blocks

_EPSILON = 1e-5

_VIT_B: dict[str, Any] = {
  "width": 768,
  "depth": 12,
  "num_heads": 12,
  "mlp_width": 3072,
  "head_width": 512,
}

# The fields of the published towers, by the name of their configuration. The
# ones up to L/14 are also in OpenCLIP's weights, most of them trained without
# quick_gelu.
CLIP_VIT: dict[str, dict[str, Any]] = {
  "ViT-B-32": {**_VIT_B, "patch_size": 32},
  "ViT-B-16": {**_VIT_B, "patch_size": 16},
  "ViT-L-14": {},
  "ViT-L-14-336": {"image_size": 336},
  "ViT-H-14": {
    "width": 1280,
    "depth": 32,
    "mlp_width": 5120,
    "quick_gelu": False,
    "head_width": 1024,
  },
  "ViT-bigG-14": {
    "width": 1664,
    "depth": 48,
    "mlp_width": 8192,
    "quick_gelu": False,
    "head_width": 1280,
  },
}


class ClipVisionTransformer(nn.Module):
  """The visual tower of CLIP; as it stands OpenAI's ViT-L/14.

  The fields of the other published towers are in `CLIP_VIT`.

  Attributes:
    image_size: Side in pixels of the images that there are learned positions
      for; of other sizes these are interpolated.
    patch_size: Side of a square patch in pixels.
    width: Token width.
    depth: Number of blocks.
    num_heads: Attention heads; must divide the width.
    mlp_width: Hidden width of the MLP.
    quick_gelu: Whether the MLP has OpenAI's `x * sigmoid(1.702 * x)` instead
      of the exact GELU.
    head_width: Width of the embedding that `project` makes; 0 for none.
    patch_dropout_rate: The share of the patches that training drops.
    dtype: Computation dtype; LayerNorm statistics and the attention softmax
      stay in float32.
    param_dtype: Parameter dtype.
    remat: What the backward pass computes again; see `apply_blocks`.
    scan_layers: Whether the blocks compile as a loop.
  """

  image_size: int = 224
  patch_size: int = 14
  width: int = 1024
  depth: int = 24
  num_heads: int = 16
  mlp_width: int = 4096
  quick_gelu: bool = True
  head_width: int = 768
  patch_dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32
  remat: str = "none"
  scan_layers: bool = True

  def setup(self) -> None:
    """Makes the head, which two methods use."""
    if self.head_width:
      self.head = Dense(
        self.head_width,
        use_bias=False,
        kernel_init=nn.initializers.normal(self.width**-0.5),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
      )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Encodes images.

    Args:
      images: Float `[batch, height, width, channel]`, normalised as CLIP's.
      train: Whether patches are dropped; random stream `dropout`.

    Returns:
      `[batch, 1 + patches, width]` in `dtype`, normalised; the class token
      first.

    Raises:
      ValueError: If the input is no batch of colour images, a side is no
        multiple of the patch size, or the heads do not divide the width.
    """
    check_heads(self.width, self.num_heads)
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    x = PatchTokens(
      self.image_size,
      self.patch_size,
      self.width,
      stddev=self.width**-0.5,
      use_bias=False,
      **types,
      name="embeddings",
    )(images)
    if train and self.patch_dropout_rate:
      key = self.make_rng("dropout")
      x, _ = drop_patches(x, self.patch_dropout_rate, key=key)
    x = _layer_norm(**types, name="first_norm")(x)
    block = _Block(
      self.num_heads, self.mlp_width, self.quick_gelu, **types, name="blocks"
    )
    x = apply_blocks(
      block,
      x,
      depth=self.depth,
      remat=self.remat,
      scan_layers=self.scan_layers,
    )
    x = _layer_norm(**types, name="norm")(x)
    if self.is_initializing() and self.head_width:
      self.project(x)
    return x

  def project(self, tokens: jax.Array) -> jax.Array:
    """The image's embedding in the space of CLIP, not of unit length.

    Args:
      tokens: What the tower returns, `[batch, 1 + patches, width]`.

    Returns:
      `[batch, head_width]`.

    Raises:
      ValueError: If the tower has no head.
    """
    if not self.head_width:
      raise ValueError("the tower has no head; give it a head_width")
    return self.head(tokens[:, 0])


class _Block(nn.Module):
  """Attention and MLP, normalised before, added to what comes in."""

  num_heads: int
  mlp_width: int
  quick_gelu: bool
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, per_layer: None) -> jax.Array:
    batch, length, width = x.shape
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }

    def dense(y: jax.Array, size: int, name: str) -> jax.Array:
      # In the attention PyTorch starts with other values than elsewhere.
      zero_bias = name in ("qkv", "attention_out")
      return Dense(
        size,
        kernel_init=(
          nn.initializers.xavier_uniform() if name == "qkv" else torch_kernel
        ),
        bias_init=(
          nn.initializers.zeros if zero_bias else torch_bias(y.shape[-1])
        ),
        **types,
        name=name,
      )(y)

    y = _layer_norm(**types, name="attention_norm")(x)
    q, k, v = (
      part.reshape(batch, length, self.num_heads, -1)
      for part in jnp.split(dense(y, 3 * width, "qkv"), 3, axis=-1)
    )
    y = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    x = x + dense(y, width, "attention_out")
    y = _layer_norm(**types, name="mlp_norm")(x)
    y = dense(y, self.mlp_width, "mlp_in")
    if self.quick_gelu:
      y = y * nn.sigmoid(1.702 * y)
    else:
      y = gelu(y)
    x = x + dense(y, width, "mlp_out")
    self.sow("intermediates", "output", x)
    return x


def _layer_norm(**kwargs: Any) -> LayerNorm:
  return LayerNorm(_EPSILON, **kwargs)
