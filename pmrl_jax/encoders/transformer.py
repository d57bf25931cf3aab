"""The pre-norm transformer that the encoders share.

Reference: Vaswani et al., Attention Is All You Need, arXiv 1706.03762; the
pre-norm order of Xiong et al., On Layer Normalization in the Transformer
Architecture, arXiv 2002.04745, which trains without a long warm-up.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.attention import check_heads
from pmrl_jax.encoders.dense import Dense


class Transformer(nn.Module):
  """Position embedding, `depth` pre-norm blocks and a final LayerNorm.

  Attributes:
    depth: Number of blocks.
    num_heads: Attention heads; must divide the width of the tokens.
    mlp_ratio: Hidden width of the MLP over the token width.
    dropout_rate: Dropout on both residual branches; random stream `dropout`.
    dtype: Computation dtype; LayerNorm statistics and the attention softmax
      stay in float32.
    param_dtype: Parameter dtype.
  """

  depth: int
  num_heads: int
  mlp_ratio: float = 4.0
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: jax.Array,
    *,
    train: bool,
    where: jax.Array | None = None,
  ) -> jax.Array:
    """Transforms tokens.

    Args:
      tokens: `[batch, tokens, width]`.
      train: Whether dropout is on.
      where: Optional bool `[batch, tokens]`: tokens that may be attended to.

    Returns:
      `[batch, tokens, width]` in `dtype`.

    Raises:
      ValueError: If the width is no multiple of `num_heads`.
    """
    _, length, width = tokens.shape
    check_heads(width, self.num_heads)
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    positions = self.param(
      "positions",
      nn.initializers.normal(0.02),
      (1, length, width),
      self.param_dtype,
    )
    x = (tokens + positions).astype(self.dtype)
    mask = None if where is None else where[:, None, None, :]
    for block in range(self.depth):
      y = nn.LayerNorm(**types, name=f"attention_norm_{block}")(x)
      y = nn.MultiHeadDotProductAttention(
        num_heads=self.num_heads,
        force_fp32_for_softmax=True,
        **types,
        name=f"attention_{block}",
      )(y, mask=mask)
      x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(y)
      y = nn.LayerNorm(**types, name=f"mlp_norm_{block}")(x)
      hidden = int(width * self.mlp_ratio)
      y = nn.gelu(Dense(hidden, **types, name=f"mlp_in_{block}")(y))
      y = Dense(width, **types, name=f"mlp_out_{block}")(y)
      x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(y)
    return nn.LayerNorm(**types, name="final_norm")(x)


class TransformerEncoder(nn.Module):
  """What the transformer encoders share: tokens in, one vector out.

  A subclass turns its input into tokens (`project` makes them of vectors) and
  returns `self.encode(tokens)`.

  Attributes:
    width: Token width, and that of the vector.
    depth: Number of transformer blocks.
    num_heads: Attention heads.
    mlp_ratio: Hidden width of the MLP over the width.
    dropout_rate: Dropout on the residual branches.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  width: int
  depth: int
  num_heads: int
  mlp_ratio: float = 4.0
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  def project(self, vectors: jax.Array, *, name: str) -> jax.Array:
    """Maps `[batch, tokens, any]` to tokens `[batch, tokens, width]`."""
    return Dense(
      self.width, dtype=self.dtype, param_dtype=self.param_dtype, name=name
    )(vectors)

  def encode(
    self, tokens: jax.Array, *, train: bool, where: jax.Array | None = None
  ) -> jax.Array:
    """Transforms tokens and averages them.

    Args:
      tokens: `[batch, tokens, width]`.
      train: Whether dropout is on.
      where: Optional bool `[batch, tokens]`: tokens that take part.

    Returns:
      `[batch, width]`.
    """
    transformer = Transformer(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      dropout_rate=self.dropout_rate,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="transformer",
    )
    return masked_mean(transformer(tokens, train=train, where=where), where)


def masked_mean(tokens: jax.Array, where: jax.Array | None = None) -> jax.Array:
  """Mean over the tokens that `where` marks.

  Args:
    tokens: `[batch, tokens, width]`.
    where: Optional bool `[batch, tokens]`.

  Returns:
    `[batch, width]`; zero where a row has no token at all.
  """
  if where is None:
    return tokens.mean(axis=1)
  total = jnp.where(where[..., None], tokens, 0).sum(axis=1)
  count = where.sum(axis=1, keepdims=True)
  return total / jnp.maximum(count, 1).astype(tokens.dtype)
