"""The parts around the encoders: conditions, and the matching head."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.layer_norm import LayerNorm
from pmrl_jax.encoders.resize import nearest_indices


class Linear(nn.Module):
  """A linear layer that starts as PyTorch's do: uniform by the fan-in.

  Attributes:
    features: Width of the output.
    use_bias: Whether there is a bias.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  features: int
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., width]` to `[..., features]`."""
    bound = x.shape[-1] ** -0.5

    def start(key: jax.Array, shape: tuple, dtype: DTypeLike) -> jax.Array:
      return jax.random.uniform(key, shape, dtype, -bound, bound)

    shape = (x.shape[-1], self.features)
    kernel = self.param("kernel", start, shape, self.param_dtype)
    y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
    if not self.use_bias:
      return y
    bias = self.param("bias", start, shape[1:], self.param_dtype)
    return y + jnp.broadcast_to(bias.astype(self.dtype), y.shape)


class ConditionAdapter(nn.Module):
  """Makes tokens of an encoder what the text encoder looks at.

  A linear layer, a LayerNorm, an embedding of the clip and one of the
  modality.

  Attributes:
    width: Width of the conditions.
    num_clips: Number of clip embeddings; None: there are no clips.
    dtype: Computation dtype; the LayerNorm's statistics are float32.
    param_dtype: Parameter dtype.
  """

  width: int
  num_clips: int | None = None
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array) -> jax.Array:
    """Adapts tokens.

    Args:
      tokens: `[batch, tokens, width]`, or `[batch, clip, tokens, width]` where
        there are clips, any number of them.

    Returns:
      `[batch, tokens, width]`, clip after clip.
    """
    dtypes: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    x = Linear(self.width, name="projection", **dtypes)(tokens)
    x = LayerNorm(1e-12, name="norm", **dtypes)(x)
    start = nn.initializers.normal(0.02)
    if self.num_clips is not None:
      clips = self.param(
        "clip_embedding", start, (self.num_clips, self.width), self.param_dtype
      )
      clips = clips[nearest_indices(self.num_clips, x.shape[1])].astype(
        self.dtype
      )
      x = x + jnp.broadcast_to(clips[None, :, None], x.shape)
      x = x.reshape(x.shape[0], -1, self.width)
    modality = self.param(
      "type_embedding", start, (self.width,), self.param_dtype
    )
    return x + jnp.broadcast_to(modality.astype(self.dtype), x.shape)


class MatchingHead(nn.Module):
  """Does this text belong to that condition? The logits of no and yes.

  Attributes:
    width: Width of the hidden layer.
    dtype: Computation dtype; the LayerNorm's statistics are float32.
    param_dtype: Parameter dtype.
  """

  width: int
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[batch, width]` to `[batch, 2]`."""
    dtypes: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    x = Linear(self.width, name="hidden", **dtypes)(x)
    x = gelu(x)
    x = LayerNorm(1e-12, name="norm", **dtypes)(x)
    return Linear(2, name="output", **dtypes)(x)
