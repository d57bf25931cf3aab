"""The visual tower of EVA-CLIP: a large vision transformer, by its switches.

Reference: Sun et al., EVA-CLIP, arXiv 2303.15389; Fang et al., EVA, arXiv
2211.07636, and EVA-02, arXiv 2303.11331.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.attention import check_heads
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.eva_block import STDDEV, EvaBlock, eva_layer_norm
from pmrl_jax.encoders.patches import PatchTokens, drop_patches, patch_grid
from pmrl_jax.encoders.rotary import rotary_table
from pmrl_jax.encoders.stack import apply_blocks

_Turns = tuple[jax.Array, jax.Array] | None

_EVA02: dict[str, Any] = {
  "fused_qkv": False,
  "attention_norm": True,
  "mlp_norm": True,
  "swiglu": True,
  "rotary_side": 16,
  "drop_path_rate": 0.0,
}
_EVA02_L: dict[str, Any] = {
  **_EVA02,
  "patch_size": 14,
  "width": 1024,
  "depth": 24,
  "num_heads": 16,
  "mlp_width": 2730,
  "head_width": 768,
}

# The fields of the published towers, by the name of their configuration.
EVA_CLIP: dict[str, dict[str, Any]] = {
  "EVA01-CLIP-g-14": {},
  "EVA02-CLIP-B-16": {
    **_EVA02,
    "patch_size": 16,
    "width": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_width": 2048,
    "head_width": 512,
  },
  "EVA02-CLIP-L-14": _EVA02_L,
  "EVA02-CLIP-L-14-336": {**_EVA02_L, "image_size": 336},
  # Also that of EVA02-CLIP-bigE-14-plus.
  "EVA02-CLIP-bigE-14": {
    "width": 1792,
    "depth": 64,
    "num_heads": 16,
    "mlp_width": 15360,
    "post_norm": True,
    "drop_path_rate": 0.0,
  },
}


class EvaVisionTransformer(nn.Module):
  """The visual tower of EVA-CLIP; as it stands EVA01-CLIP-g-14.

  The fields of the other published towers are in `EVA_CLIP`.

  Attributes:
    image_size: Side in pixels of the images that there are learned positions
      for; of other sizes these are interpolated.
    patch_size: Side of a square patch in pixels.
    width: Token width.
    depth: Number of blocks.
    num_heads: Attention heads; must divide the width.
    mlp_width: Hidden width of the MLP.
    fused_qkv: Whether queries, keys and values are one projection. Queries
      and values have biases, keys have none.
    attention_norm: A LayerNorm before the output projection of the attention.
    mlp_norm: A LayerNorm before the output projection of the MLP.
    swiglu: Whether the MLP is gated (SwiGLU) instead of a GELU MLP.
    post_norm: Whether a branch is normalised at its end instead of its start.
    rotary_side: Rotary positions besides the learned ones: the side, in
      patches, of the grid of the pre-training. None for no rotary positions.
    head_width: Width of the embedding that `project` makes (unused by PMRL);
      0 for none.
    drop_path_rate: Stochastic depth of the last block in training; it grows
      linearly from 0.
    patch_dropout_rate: The share of the patches that training drops.
    dtype: Computation dtype; LayerNorm statistics and the attention softmax
      stay in float32.
    param_dtype: Parameter dtype.
    remat: What the backward pass computes again; see `apply_blocks`.
    scan_layers: Whether the blocks compile as a loop.
  """

  image_size: int = 224
  patch_size: int = 14
  width: int = 1408
  depth: int = 40
  num_heads: int = 16
  mlp_width: int = 6144
  fused_qkv: bool = True
  attention_norm: bool = False
  mlp_norm: bool = False
  swiglu: bool = False
  post_norm: bool = False
  rotary_side: int | None = None
  head_width: int = 1024
  drop_path_rate: float = 0.4
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
        kernel_init=nn.initializers.normal(STDDEV),
        dtype=self.dtype,
        param_dtype=self.param_dtype,
      )

  @nn.compact
  def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
    """Encodes images.

    Args:
      images: Float `[batch, height, width, channel]`, normalised as CLIP's.
      train: Whether blocks and patches are dropped; random stream `dropout`.

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
      stddev=STDDEV,
      **types,
      name="embeddings",
    )(images)
    grid = patch_grid(images.shape, self.patch_size)
    x, rotary = self._kept(x, self._rotary(grid), train=train)
    block = EvaBlock(
      num_heads=self.num_heads,
      mlp_width=self.mlp_width,
      fused_qkv=self.fused_qkv,
      attention_norm=self.attention_norm,
      mlp_norm=self.mlp_norm,
      swiglu=self.swiglu,
      post_norm=self.post_norm,
      drops=self.drop_path_rate > 0,
      **types,
      name="blocks",
    )
    per_layer = {
      "drop_rate": jnp.linspace(0.0, self.drop_path_rate, self.depth),
      "number": jnp.arange(1.0, self.depth + 1),
    }
    x = apply_blocks(
      block,
      x,
      per_layer,
      depth=self.depth,
      remat=self.remat,
      scan_layers=self.scan_layers,
      rotary=rotary,
      train=train,
    )
    x = eva_layer_norm(**types, name="norm")(x)
    if self.is_initializing() and self.head_width:
      self.project(x)
    return x

  def project(self, tokens: jax.Array) -> jax.Array:
    """The image's embedding in the space of EVA-CLIP, not of unit length.

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

  def _kept(
    self, x: jax.Array, rotary: _Turns, *, train: bool
  ) -> tuple[jax.Array, _Turns]:
    """The tokens that patch dropout leaves, and their turns."""
    if not train or not self.patch_dropout_rate:
      return x, rotary
    key = self.make_rng("dropout")
    x, kept = drop_patches(x, self.patch_dropout_rate, key=key)
    if rotary is not None:
      cosines, sines = rotary
      rotary = cosines[0, kept], sines[0, kept]
    return x, rotary

  def _rotary(self, grid: tuple[int, int]) -> _Turns:
    """The turns of all tokens `[1, tokens, head width]`; none for class."""
    if self.rotary_side is None:
      return None
    cosines, sines = rotary_table(
      grid, self.rotary_side, self.width // self.num_heads
    )
    still = ((1, 0), (0, 0))
    return (
      jnp.pad(cosines, still, constant_values=1.0)[None],
      jnp.pad(sines, still)[None],
    )
