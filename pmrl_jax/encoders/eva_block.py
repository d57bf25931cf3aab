"""The block of EVA-CLIP's visual tower, by its switches."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.attention import attend
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.layer_norm import LayerNorm
from pmrl_jax.encoders.rotary import rotate
from pmrl_jax.encoders.stack import drop_path

# Of all weights when training starts. The published code truncates at plus
# and minus 2, which is never reached.
STDDEV = 0.02
_EPSILON = 1e-6


class EvaBlock(nn.Module):
  """Attention and MLP, each with its LayerNorm, added to what comes in.

  Attributes:
    drops: Whether whole branches are dropped in training.
    The others: See `EvaVisionTransformer`.
  """

  num_heads: int
  mlp_width: int
  fused_qkv: bool
  attention_norm: bool
  mlp_norm: bool
  swiglu: bool
  post_norm: bool
  drops: bool
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    per_layer: dict[str, jax.Array],
    *,
    rotary: tuple[jax.Array, jax.Array] | None,
    train: bool,
  ) -> jax.Array:
    """Applies the block.

    Args:
      x: `[batch, tokens, width]`.
      per_layer: Scalars: `drop_rate`, and the layer's `number`, from 1.
      rotary: Cosines and sines of the tokens; see `rotate`.
      train: Whether branches are dropped.

    Returns:
      `[batch, tokens, width]`.
    """
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    # The deeper a branch is, the less it says when training starts.
    out_init = _scaled_normal(STDDEV / jnp.sqrt(2 * per_layer["number"]))
    attention = _Attention(
      self.num_heads,
      self.fused_qkv,
      self.attention_norm,
      out_init,
      **types,
      name="attention",
    )
    mlp = _Mlp(
      self.mlp_width, self.swiglu, self.mlp_norm, out_init, **types, name="mlp"
    )
    branches: dict[str, Callable[[jax.Array], jax.Array]] = {
      "attention": lambda y: attention(y, rotary),
      "mlp": mlp,
    }
    for name, branch in branches.items():
      norm = eva_layer_norm(**types, name=f"{name}_norm")
      y = norm(branch(x)) if self.post_norm else branch(norm(x))
      self.sow("intermediates", f"{name}_branch", y)
      if train and self.drops:
        key = self.make_rng("dropout")
        y = drop_path(y, per_layer["drop_rate"], key=key)
      x = x + y
    self.sow("intermediates", "output", x)
    return x


class _Attention(nn.Module):
  """Self-attention whose queries and values have biases, and keys none."""

  num_heads: int
  fused_qkv: bool
  norm: bool
  out_init: Callable[..., jax.Array]
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: jax.Array, rotary: tuple[jax.Array, jax.Array] | None
  ) -> jax.Array:
    batch, length, width = x.shape
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    normal = nn.initializers.normal(STDDEV)
    if self.fused_qkv:
      qkv = Dense(
        3 * width, use_bias=False, kernel_init=normal, **types, name="qkv"
      )(x)
      q, k, v = jnp.split(qkv, 3, axis=-1)
      zeros = nn.initializers.zeros
      q_bias = self.param("query_bias", zeros, (width,), self.param_dtype)
      v_bias = self.param("value_bias", zeros, (width,), self.param_dtype)
      q = q + q_bias.astype(self.dtype).reshape(1, 1, width)
      v = v + v_bias.astype(self.dtype).reshape(1, 1, width)
    else:
      q, k, v = (
        Dense(
          width, use_bias=name != "key", kernel_init=normal, **types, name=name
        )(x)
        for name in ("query", "key", "value")
      )
    q, k, v = (
      part.reshape(batch, length, self.num_heads, -1) for part in (q, k, v)
    )
    if rotary is not None:
      q, k = rotate(q, rotary), rotate(k, rotary)
    y = attend(q, k, v).reshape(x.shape)
    if self.norm:
      y = eva_layer_norm(**types, name="norm")(y)
    return Dense(width, kernel_init=self.out_init, **types, name="out")(y)


class _Mlp(nn.Module):
  """A GELU or a SwiGLU MLP."""

  hidden: int
  swiglu: bool
  norm: bool
  out_init: Callable[..., jax.Array]
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    normal = nn.initializers.normal(STDDEV)
    y = Dense(self.hidden, kernel_init=normal, **types, name="in")(x)
    if self.swiglu:
      gate = Dense(self.hidden, kernel_init=normal, **types, name="gate")(x)
      y = nn.silu(gate) * y
    else:
      y = gelu(y)
    if self.norm:
      y = eva_layer_norm(**types, name="norm")(y)
    width = x.shape[-1]
    return Dense(width, kernel_init=self.out_init, **types, name="out")(y)


def eva_layer_norm(**kwargs: Any) -> LayerNorm:
  """The LayerNorm that the tower has everywhere."""
  return LayerNorm(_EPSILON, **kwargs)


def _scaled_normal(stddev: jax.Array) -> Callable[..., jax.Array]:
  """A normal initialiser whose scale may be traced: that of a layer."""

  def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
    return jax.random.normal(key, shape, dtype) * stddev.astype(dtype)

  return init
