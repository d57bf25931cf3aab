"""Sound: BEATs, the audio tower of the published model.

Reference: Chen et al., BEATs: Audio Pre-Training with Acoustic Tokenizers,
arXiv 2212.09058. The order of norm and residual is that of Wang et al.,
DeepNet: Scaling Transformers to 1,000 Layers, arXiv 2203.00555.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.dropout import Dropout
from pmrl_jax.encoders.layer_norm import LayerNorm
from pmrl_jax.encoders.positional_convolution import PositionalConvolution
from pmrl_jax.encoders.relative_attention import (
  GatedRelativeAttention,
  relative_buckets,
)
from pmrl_jax.encoders.stack import apply_blocks

_EPSILON = 1e-5  # of every LayerNorm
_NORMAL = nn.initializers.normal(0.02)


class Beats(nn.Module):
  """Spectrogram patches, a positional convolution and post-norm blocks.

  The defaults are those of BEATs_iter3+ (AS2M), 90 million parameters. What
  depends on the position is relative, so that recordings may have any length.

  Attributes:
    depth: Number of blocks.
    width: Token width.
    num_heads: Attention heads; must divide the width.
    mlp_width: Hidden width of the MLPs.
    patch_size: Side of a square patch, in frames and in mel bins.
    patch_width: Width of a patch before it is projected to `width`; nothing
      is projected if the two are equal.
    patch_bias: Whether the patches' convolution has a bias.
    conv_kernel: Tokens that the positional convolution sees.
    conv_groups: Groups of the positional convolution; must divide the width.
    num_buckets: Relative positions that the attention tells apart.
    max_distance: Tokens from which on all positions share a bucket.
    deep_norm: Whether the residual is scaled by `(2 depth)^(1/4)` before it
      is added, and the initial weights in turn are smaller.
    gradient_decay: What the gradient is multiplied by at the input of every
      block, so that lower blocks learn more slowly; 1 turns it off.
    layerdrop_rate: Probability that a block is left out, for the whole batch.
    dropout_rate: Dropout before the blocks and on both residual branches.
    attention_dropout_rate: Dropout on the attention weights.
    activation_dropout_rate: Dropout inside the MLPs.
    input_dropout_rate: Dropout on the projected patches.
    dtype: Computation dtype; LayerNorm statistics and the attention softmax
      stay in float32.
    param_dtype: Parameter dtype.
    remat: What the backward pass computes again; one of `REMAT_POLICIES`.
    scan_layers: Whether the blocks compile as a loop.
  """

  depth: int = 12
  width: int = 768
  num_heads: int = 12
  mlp_width: int = 3072
  patch_size: int = 16
  patch_width: int = 512
  patch_bias: bool = False
  conv_kernel: int = 128
  conv_groups: int = 16
  num_buckets: int = 320
  max_distance: int = 800
  deep_norm: bool = True
  gradient_decay: float = 0.6
  layerdrop_rate: float = 0.05
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  activation_dropout_rate: float = 0.0
  input_dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32
  remat: str = "none"
  scan_layers: bool = True

  @nn.compact
  def __call__(self, spectrograms: jax.Array, *, train: bool) -> jax.Array:
    """Encodes log-mel spectrograms.

    Args:
      spectrograms: Float `[batch, time, mel]`, normalised as in training
        (1024 frames of 10 ms by 64 bins in the published model). Frames and
        bins that fill no patch are left out.
      train: Whether dropout and layerdrop are on.

    Returns:
      `[batch, tokens, width]`, tokens = `(time // patch) * (mel // patch)`,
      those of one time span beside each other.

    Raises:
      ValueError: If the input is no batch of spectrograms or holds no patch,
        or if the heads or the groups do not divide the width.
    """
    self._check(spectrograms)
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    x = self._patches(spectrograms, types)
    x = Dropout(self.input_dropout_rate, deterministic=not train)(x)
    y = PositionalConvolution(
      self.conv_kernel, self.conv_groups, **types, name="positions"
    )(x)
    self.sow("intermediates", "positions_out", y)
    x = _norm("encoder_norm", types)(x + y)
    self.sow("intermediates", "encoder_norm_out", x)
    x = Dropout(self.dropout_rate, deterministic=not train)(x)
    block = BeatsBlock(
      num_heads=self.num_heads,
      mlp_width=self.mlp_width,
      residual_scale=(2 * self.depth) ** 0.25 if self.deep_norm else 1.0,
      initial_scale=(8 * self.depth) ** -0.25 if self.deep_norm else None,
      gradient_decay=self.gradient_decay,
      layerdrop_rate=self.layerdrop_rate,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      activation_dropout_rate=self.activation_dropout_rate,
      **types,
      name="blocks",
    )
    return apply_blocks(
      block,
      x,
      depth=self.depth,
      remat=self.remat,
      scan_layers=self.scan_layers,
      bias=self._relative_bias(x.shape[1]),
      train=train,
    )

  def _check(self, spectrograms: jax.Array) -> None:
    """Refuses what cannot be encoded."""
    if spectrograms.ndim != 3:
      raise ValueError(
        "Beats expects spectrograms [batch, time, mel], got shape "
        f"{spectrograms.shape}; several clips of a recording go into the batch"
      )
    if min(spectrograms.shape[1:]) < self.patch_size:
      raise ValueError(
        f"a spectrogram must hold a patch of {self.patch_size}x"
        f"{self.patch_size}, got {spectrograms.shape[1]} frames and "
        f"{spectrograms.shape[2]} mel bins; pad it"
      )
    for name in ("num_heads", "conv_groups"):
      if self.width % getattr(self, name):
        raise ValueError(
          f"width must be a multiple of {name}, got width {self.width} and "
          f"{name} {getattr(self, name)}; change one of the two"
        )

  def _patches(
    self, spectrograms: jax.Array, types: dict[str, Any]
  ) -> jax.Array:
    """Cuts `[batch, time, mel]` into tokens `[batch, tokens, width]`."""
    x = nn.Conv(
      self.patch_width,
      kernel_size=(self.patch_size,) * 2,
      strides=(self.patch_size,) * 2,
      padding="VALID",
      use_bias=self.patch_bias,
      kernel_init=_uniform(self.patch_size**2),
      bias_init=_uniform(self.patch_size**2),
      **types,
      name="patch_embedding",
    )(spectrograms[..., None].astype(self.dtype))
    self.sow("intermediates", "patch_embedding_out", x)
    x = x.reshape(x.shape[0], -1, self.patch_width)
    x = _norm("patch_norm", types)(x)
    self.sow("intermediates", "patch_norm_out", x)
    if self.patch_width == self.width:
      return x
    x = Dense(
      self.width,
      kernel_init=_uniform(self.patch_width),
      bias_init=_uniform(self.patch_width),
      **types,
      name="patch_projection",
    )(x)
    self.sow("intermediates", "patch_projection_out", x)
    return x

  def _relative_bias(self, length: int) -> jax.Array:
    """The bias of all blocks, float32 `[1, head, query, key]`."""
    table = self.param(
      "relative_bias",
      _NORMAL,
      (self.num_buckets, self.num_heads),
      self.param_dtype,
    )
    buckets = relative_buckets(length, self.num_buckets, self.max_distance)
    bias = table.astype(jnp.float32)[buckets].transpose(2, 0, 1)[None]
    self.sow("intermediates", "relative_bias_out", bias)
    return bias


class BeatsBlock(nn.Module):
  """Attention and MLP, each normalised after its residual sum.

  Attributes:
    num_heads: Attention heads.
    mlp_width: Hidden width of the MLP.
    residual_scale: What the residual is multiplied by before the sum.
    initial_scale: Gain of the initial weights of values and MLP; None for
      normal weights of deviation 0.02 everywhere.
    gradient_decay: See `Beats`, as for the others.
    layerdrop_rate: Probability that the block is left out.
    dropout_rate: Dropout on both residual branches.
    attention_dropout_rate: Dropout on the attention weights.
    activation_dropout_rate: Dropout inside the MLP.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  num_heads: int
  mlp_width: int
  residual_scale: float
  initial_scale: float | None
  gradient_decay: float
  layerdrop_rate: float
  dropout_rate: float
  attention_dropout_rate: float
  activation_dropout_rate: float
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: jax.Array, per_layer: None = None, *, bias: jax.Array, train: bool
  ) -> jax.Array:
    """Maps `[batch, tokens, width]` to the same shape.

    Args:
      x: `[batch, tokens, width]`.
      per_layer: Nothing.
      bias: Relative bias, float32 `[1, head, query, key]`.
      train: Whether dropout and layerdrop are on.

    Returns:
      `[batch, tokens, width]`.
    """
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    gain = self.initial_scale
    init = _NORMAL if gain is None else _xavier(gain)
    x = skipped = scale_gradient(x, self.gradient_decay)
    y = GatedRelativeAttention(
      num_heads=self.num_heads,
      dropout_rate=self.attention_dropout_rate,
      query_init=_NORMAL if gain is None else _xavier(1.0),
      value_init=init,
      gate_init=_NORMAL,
      **types,
      name="attention",
    )(x, bias=bias, train=train)
    self.sow("intermediates", "attention_out", y)
    y = Dropout(self.dropout_rate, deterministic=not train)(y)
    x = _norm("attention_norm", types)(self.residual_scale * x + y)
    y = Dense(self.mlp_width, kernel_init=init, **types, name="mlp_in")(x)
    y = gelu(y)
    y = Dropout(self.activation_dropout_rate, deterministic=not train)(y)
    y = Dense(x.shape[-1], kernel_init=init, **types, name="mlp_out")(y)
    y = Dropout(self.dropout_rate, deterministic=not train)(y)
    x = _norm("mlp_norm", types)(self.residual_scale * x + y)
    if train and self.layerdrop_rate:
      key = self.make_rng("dropout")
      kept = jax.random.bernoulli(key, 1 - self.layerdrop_rate)
      x = jnp.where(kept, x, skipped)
    self.sow("intermediates", "block_out", x)
    return x


def scale_gradient(x: jax.Array, scale: float) -> jax.Array:
  """Returns `x`; its gradient is multiplied by `scale` on the way back."""
  if scale == 1:
    return x

  @jax.custom_jvp
  def identity(x: jax.Array) -> jax.Array:
    return x

  identity.defjvp(lambda x, t: (x[0], scale * t[0]))
  return identity(x)


def _norm(name: str, types: dict[str, Any]) -> LayerNorm:
  """A LayerNorm of the published epsilon."""
  return LayerNorm(_EPSILON, **types, name=name)


def _uniform(fan_in: int) -> nn.initializers.Initializer:
  """What PyTorch gives weight and bias of which nobody says otherwise."""
  bound = fan_in**-0.5

  def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init


def _xavier(gain: float) -> nn.initializers.Initializer:
  return nn.initializers.variance_scaling(gain**2, "fan_avg", "normal")
