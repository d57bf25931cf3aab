"""Attention with a relative bias that the query opens and closes.

Reference: the buckets are those of Raffel et al., Exploring the Limits of
Transfer Learning with T5, arXiv 1910.10683, and the gate that of Chi et al.,
XLM-E, arXiv 2106.16138, as used in WavLM and BEATs (arXiv 2212.09058).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pmrl_jax.encoders.attention import attend
from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.dropout import Dropout

# Numbers that a query computes for its gate, in two sums.
_GATE_WIDTH = 8


def relative_buckets(
  length: int, num_buckets: int, max_distance: int
) -> np.ndarray:
  """Numbers of the buckets that pairs of positions fall into.

  Half of the buckets are for keys behind the query. Of each half, the first
  half tells every distance apart; the others grow with the logarithm of the
  distance, and the last one takes all from `max_distance` on.

  Args:
    length: Number of positions.
    num_buckets: Number of buckets, a multiple of 4.
    max_distance: The distance, in positions, that the last bucket reaches.

  Returns:
    int32 `[query, key]`.

  Raises:
    ValueError: If the buckets cannot be halved twice, or `max_distance` lies
      within those that tell every distance apart.
  """
  exact = num_buckets // 4
  if num_buckets % 4 or not 0 < exact < max_distance:
    raise ValueError(
      "num_buckets must be a positive multiple of 4 and max_distance more "
      f"than a quarter of it, got num_buckets {num_buckets} and max_distance "
      f"{max_distance}"
    )
  position = np.arange(length)
  relative = position[None, :] - position[:, None]
  distance = np.abs(relative)
  # In float32, step by step as in training: borders must not move.
  wide = np.log(np.maximum(distance, exact).astype(np.float32) / exact)
  wide = wide / np.float32(math.log(max_distance / exact)) * exact
  far = np.minimum(exact + wide.astype(np.int32), num_buckets // 2 - 1)
  bucket = np.where(distance < exact, distance, far)
  return (bucket + num_buckets // 2 * (relative > 0)).astype(np.int32)


class GatedRelativeAttention(nn.Module):
  """Self-attention, `softmax(q k / sqrt(d) + gate(q) bias) v`.

  The gate of a head and query is `a (b scale - 1) + 2`, where a and b are
  sigmoids of linear functions of the query and `scale` is a parameter per
  head.

  Attributes:
    num_heads: Attention heads; must divide the width of the tokens.
    dropout_rate: Dropout on the attention weights.
    query_init: Initialiser of queries and keys.
    value_init: Initialiser of values and output.
    gate_init: Initialiser of the gate.
    dtype: Computation dtype; logits, gate and softmax stay in float32.
    param_dtype: Parameter dtype.
  """

  num_heads: int
  dropout_rate: float
  query_init: nn.initializers.Initializer
  value_init: nn.initializers.Initializer
  gate_init: nn.initializers.Initializer
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(
    self, x: jax.Array, *, bias: jax.Array, train: bool
  ) -> jax.Array:
    """Lets every token attend to all.

    Args:
      x: `[batch, tokens, width]`.
      bias: float32 `[1, head, query, key]`.
      train: Whether dropout is on.

    Returns:
      `[batch, tokens, width]`.
    """
    b, length, width = x.shape
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }

    def heads(name: str, init: nn.initializers.Initializer) -> jax.Array:
      y = Dense(width, kernel_init=init, **types, name=name)(x)
      return y.reshape(b, length, self.num_heads, -1)

    query = heads("query", self.query_init)
    key = heads("key", self.query_init)
    value = heads("value", self.value_init)
    y = attend(
      query,
      key,
      value,
      bias=self._gate(query, types) * bias,
      dropout=Dropout(self.dropout_rate, deterministic=not train),
    )
    return Dense(width, kernel_init=self.value_init, **types, name="out")(
      y.reshape(b, length, width)
    )

  def _gate(self, query: jax.Array, types: dict[str, Any]) -> jax.Array:
    """The gate `[batch, head, query, 1]` of `[batch, query, head, dim]`."""
    y = Dense(_GATE_WIDTH, kernel_init=self.gate_init, **types, name="gate")(
      query
    ).astype(jnp.float32)
    y = jax.nn.sigmoid(y.reshape(*y.shape[:-1], 2, -1).sum(axis=-1))
    scale = self.param(
      "gate_scale",
      nn.initializers.ones,
      (1, self.num_heads, 1, 1),
      self.param_dtype,
    ).astype(jnp.float32)
    y = y.transpose(0, 2, 1, 3)
    return y[..., :1] * (y[..., 1:] * scale - 1) + 2
