"""The layers of BERT: attention to the text or a condition, feed-forward.

Every branch is followed by a LayerNorm over its sum with the input.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.attention import attend_by_groups
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.dropout import Dropout
from pmrl_jax.encoders.layer_norm import LayerNorm

INITIALIZER = nn.initializers.normal(0.02)

# Added to the scores of what may not be attended to. A number, not minus
# infinity: a query that may attend to nothing then sees everything, as in the
# published code, instead of becoming NaN.
_HIDDEN_SCORE = -10_000.0


class BertLayer(nn.Module):
  """Self-attention, cross-attention where there is a condition, and an MLP.

  Attributes:
    The fields: See `Bert`.
  """

  num_heads: int
  mlp_width: int
  dropout_rate: float
  attention_dropout_rate: float
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    _: Any,
    *,
    bias: jax.Array | None,
    condition: jax.Array | None,
    condition_bias: jax.Array | None,
    reads: tuple[int, ...],
    train: bool,
  ) -> jax.Array:
    """Returns the next tokens.

    Args:
      x: `[batch, length, width]`.
      bias: Of the self-attention's scores, see `scores_bias`.
      condition: Optional `[conditions, tokens, width]`.
      condition_bias: Of the cross-attention's scores.
      reads: Which conditions texts read, see `Bert`.
      train: Whether dropout is on.

    Returns:
      `[batch, length, width]`.
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    attention: dict[str, Any] = {
      "num_heads": self.num_heads,
      "dropout_rate": self.dropout_rate,
      "attention_dropout_rate": self.attention_dropout_rate,
      **types,
    }
    x = Attention(**attention, name="attention")(x, x, bias, train=train)
    if condition is not None:
      x = Attention(**attention, name="cross_attention")(
        x, condition, condition_bias, reads=reads, train=train
      )
    y = gelu(dense(self.mlp_width, "mlp_in", types)(x))
    y = dense(x.shape[-1], "mlp_out", types)(y)
    y = Dropout(self.dropout_rate, deterministic=not train)(y)
    x = layer_norm("mlp_norm", types)(y + x)
    self.sow("intermediates", "hidden", x)
    return x


class Attention(nn.Module):
  """Attention of queries to any source, with residual and LayerNorm.

  Queries and source are apart, so that a text can be continued token by token
  against keys and values of an earlier call.

  Attributes:
    The fields: See `Bert`.
  """

  num_heads: int
  dropout_rate: float
  attention_dropout_rate: float
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    source: jax.Array,
    bias: jax.Array | None,
    *,
    reads: tuple[int, ...] = (0,),
    train: bool,
  ) -> jax.Array:
    """Returns the tokens, informed by the source.

    Args:
      x: `[batch, queries, width]`.
      source: `[sources, keys, width]`.
      bias: Optional float32 `[sources, 1, 1 or queries, keys]`.
      reads: The queries come in groups of so many, the sources in groups too:
        which source of its group each of the queries reads.
      train: Whether dropout is on.

    Returns:
      `[batch, queries, width]`.
    """
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    width = x.shape[-1]
    query, key, value = (
      dense(width, name, types)(each).reshape(
        *each.shape[:2], self.num_heads, width // self.num_heads
      )
      for name, each in (("query", x), ("key", source), ("value", source))
    )
    y = attend_by_groups(
      query,
      key,
      value,
      reads,
      bias=bias,
      dropout=Dropout(self.attention_dropout_rate, deterministic=not train),
    ).reshape(x.shape)
    y = dense(width, "out", types)(y)
    y = Dropout(self.dropout_rate, deterministic=not train)(y)
    return layer_norm("norm", types)(y + x)


def dense(width: int, name: str, types: dict[str, Any]) -> Dense:
  """A linear layer, initialised as BERT's."""
  return Dense(width, kernel_init=INITIALIZER, name=name, **types)


def layer_norm(name: str, types: dict[str, Any]) -> LayerNorm:
  """A LayerNorm with BERT's epsilon."""
  return LayerNorm(1e-12, name=name, **types)


def scores_bias(where: jax.Array | None) -> jax.Array | None:
  """Turns a mask into what is added to the scores.

  Args:
    where: Optional bool `[batch, keys]` or `[batch, queries, keys]`.

  Returns:
    float32 `[batch, 1, 1 or queries, keys]`, or nothing without a mask.
  """
  if where is None:
    return None
  where = where[:, None, None] if where.ndim == 2 else where[:, None]
  return jnp.where(where, 0.0, jnp.float32(_HIDDEN_SCORE))
