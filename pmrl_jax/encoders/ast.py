"""Sound: the Audio Spectrogram Transformer (AST).

Reference: Gong et al., AST: Audio Spectrogram Transformer, arXiv 2104.01778,
with the class and the distillation token of Touvron et al., Training
data-efficient image transformers, arXiv 2012.12877.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.attention import check_heads
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.dropout import Dropout
from pmrl_jax.encoders.layer_norm import LayerNorm
from pmrl_jax.encoders.stack import apply_blocks

_EPSILON = 1e-12  # of every LayerNorm
_NORMAL = nn.initializers.normal(0.02)
_NUM_EXTRA = 2  # the class and the distillation token


class AudioSpectrogramTransformer(nn.Module):
  """Overlapping spectrogram patches through a pre-norm transformer.

  The defaults are those of the AudioSet model with strides of 10, 86 million
  parameters. As the vector of a recording its authors take the mean of the
  first two tokens, class and distillation.

  Attributes:
    depth: Number of blocks.
    width: Token width.
    num_heads: Attention heads; must divide the width.
    mlp_width: Hidden width of the MLPs.
    patch_size: Side of a square patch, in frames and in mel bins.
    time_stride: Frames from one patch to the next.
    mel_stride: Mel bins from one patch to the next.
    num_frames: Frames that the positions were trained for.
    num_mels: Mel bins that the positions were trained for.
    dropout_rate: Dropout on the tokens and on both residual branches.
    attention_dropout_rate: Dropout on the attention weights.
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
  time_stride: int = 10
  mel_stride: int = 10
  num_frames: int = 1024
  num_mels: int = 128
  dropout_rate: float = 0.0
  attention_dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32
  remat: str = "none"
  scan_layers: bool = True

  @nn.compact
  def __call__(self, spectrograms: jax.Array, *, train: bool) -> jax.Array:
    """Encodes log-mel spectrograms.

    Of a shorter spectrogram than trained for, the patches get the positions
    in the middle; of a longer one, positions interpolated linearly. Frames
    and bins that fill no patch are left out.

    Args:
      spectrograms: Float `[batch, time, mel]`, normalised as in training.
      train: Whether dropout is on.

    Returns:
      `[batch, 2 + patches, width]` after the final LayerNorm: class,
      distillation, then the patches, those of one mel band beside each other.

    Raises:
      ValueError: If the input is no batch of spectrograms or holds no patch,
        or if the heads do not divide the width.
    """
    self._check(spectrograms)
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    # The published kernels have the mel axis first.
    x = nn.Conv(
      self.width,
      kernel_size=(self.patch_size,) * 2,
      strides=(self.mel_stride, self.time_stride),
      padding="VALID",
      kernel_init=_NORMAL,
      **types,
      name="patch_embedding",
    )(spectrograms.swapaxes(1, 2)[..., None].astype(self.dtype))
    b, mels, times, width = x.shape
    extra = [
      jnp.broadcast_to(self._parameter(name, 1), (b, 1, width))
      for name in ("class_token", "distillation_token")
    ]
    x = jnp.concatenate(
      [*(y.astype(self.dtype) for y in extra), x.reshape(b, -1, width)], axis=1
    )
    x = x + self._positions(mels, times).astype(self.dtype)
    self.sow("intermediates", "embeddings_out", x)
    x = Dropout(self.dropout_rate, deterministic=not train)(x)
    block = AstBlock(
      num_heads=self.num_heads,
      mlp_width=self.mlp_width,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      **types,
      name="blocks",
    )
    x = apply_blocks(
      block,
      x,
      depth=self.depth,
      remat=self.remat,
      scan_layers=self.scan_layers,
      train=train,
    )
    return _norm("final_norm", types)(x)

  def _check(self, spectrograms: jax.Array) -> None:
    """Refuses what cannot be encoded."""
    if spectrograms.ndim != 3:
      raise ValueError(
        "AudioSpectrogramTransformer expects spectrograms [batch, time, mel], "
        f"got shape {spectrograms.shape}; several clips of a recording go "
        "into the batch"
      )
    _, time, mel = spectrograms.shape
    for frames, mels, what in (
      (time, mel, "a spectrogram"),
      (self.num_frames, self.num_mels, "num_frames and num_mels"),
    ):
      if min(frames, mels) < self.patch_size:
        raise ValueError(
          f"{what} must hold a patch of {self.patch_size}x{self.patch_size}, "
          f"got {frames} frames and {mels} mel bins; pad it"
        )
    check_heads(self.width, self.num_heads)

  def _parameter(self, name: str, length: int) -> jax.Array:
    """A parameter `[1, length, width]`."""
    return self.param(name, _NORMAL, (1, length, self.width), self.param_dtype)

  def _positions(self, mels: int, times: int) -> jax.Array:
    """Positions `[1, 2 + mels * times, width]` of a grid of patches."""
    trained = (
      (self.num_mels - self.patch_size) // self.mel_stride + 1,
      (self.num_frames - self.patch_size) // self.time_stride + 1,
    )
    table = self._parameter("positions", _NUM_EXTRA + trained[0] * trained[1])
    if trained == (mels, times):
      return table
    extra, grid = table[:, :_NUM_EXTRA], table[:, _NUM_EXTRA:]
    grid = grid.reshape(1, *trained, self.width)
    for axis, length in ((1, mels), (2, times)):
      grid = resize_axis(grid, axis, length)
    return jnp.concatenate(
      [extra, grid.reshape(1, mels * times, self.width)], axis=1
    )


def resize_axis(grid: jax.Array, axis: int, length: int) -> jax.Array:
  """Cuts the middle out of an axis that is too long, or stretches it.

  Args:
    grid: Any array.
    axis: The axis that gets another length.
    length: Its new length. A longer one is interpolated linearly, with the
      ends of the old and the new axis at the same place.

  Returns:
    The grid, with `length` entries along `axis`.
  """
  old = grid.shape[axis]
  if length <= old:
    start = old // 2 - length // 2
    return jax.lax.slice_in_dim(grid, start, start + length, axis=axis)
  shape = (*grid.shape[:axis], length, *grid.shape[axis + 1 :])
  stretched = jax.image.resize(grid.astype(jnp.float32), shape, "linear")
  return stretched.astype(grid.dtype)


class AstBlock(nn.Module):
  """Attention and MLP on normalised tokens, each added to them.

  Attributes:
    num_heads: Attention heads.
    mlp_width: Hidden width of the MLP.
    dropout_rate: Dropout on both residual branches.
    attention_dropout_rate: Dropout on the attention weights.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  num_heads: int
  mlp_width: int
  dropout_rate: float
  attention_dropout_rate: float
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: jax.Array, per_layer: None = None, *, train: bool
  ) -> jax.Array:
    """Maps `[batch, tokens, width]` to the same shape.

    Args:
      x: `[batch, tokens, width]`.
      per_layer: Nothing.
      train: Whether dropout is on.

    Returns:
      `[batch, tokens, width]`.
    """
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    layer = {"kernel_init": _NORMAL, **types}
    y = self._attention(_norm("attention_norm", types)(x), layer, train=train)
    x = x + Dropout(self.dropout_rate, deterministic=not train)(y)
    y = _norm("mlp_norm", types)(x)
    y = Dense(self.mlp_width, **layer, name="mlp_in")(y)
    y = Dense(x.shape[-1], **layer, name="mlp_out")(gelu(y))
    x = x + Dropout(self.dropout_rate, deterministic=not train)(y)
    self.sow("intermediates", "block_out", x)
    return x

  def _attention(
    self, x: jax.Array, layer: dict[str, Any], *, train: bool
  ) -> jax.Array:
    """Lets every token attend to all."""
    b, length, width = x.shape
    query, key, value = (
      Dense(width, **layer, name=name)(x).reshape(b, length, self.num_heads, -1)
      for name in ("query", "key", "value")
    )
    logits = jnp.einsum(
      "bqhd,bkhd->bhqk",
      query / math.sqrt(query.shape[-1]),
      key,
      preferred_element_type=jnp.float32,
    )
    weights = jax.nn.softmax(logits).astype(self.dtype)
    weights = Dropout(self.attention_dropout_rate, deterministic=not train)(
      weights
    )
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return Dense(width, **layer, name="out")(y.reshape(b, length, width))


def _norm(name: str, types: dict[str, Any]) -> LayerNorm:
  """A LayerNorm of the published epsilon."""
  return LayerNorm(_EPSILON, **types, name=name)
