"""Text: a transformer over characters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.transformer import Transformer, masked_mean


class CharacterTransformer(nn.Module):
  """A bidirectional transformer over character ids; id 0 is padding.

  Attributes:
    vocabulary_size: Number of character ids, padding and unknown included.
    width: Token width.
    depth: Number of transformer blocks.
    num_heads: Attention heads.
    mlp_ratio: Hidden width of the MLP over the width.
    dropout_rate: Dropout on the residual branches.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  vocabulary_size: int
  width: int
  depth: int
  num_heads: int
  mlp_ratio: float = 4.0
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, ids: jax.Array, *, train: bool) -> jax.Array:
    """Encodes texts.

    Args:
      ids: Integer `[batch, characters]`, 0 where a text has ended.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`; an empty text gives zeros.

    Raises:
      TypeError: If the ids are no integers.
      ValueError: If the input is no batch of id sequences.
    """
    if not jnp.issubdtype(ids.dtype, jnp.integer):
      raise TypeError(
        "CharacterTransformer expects integer character ids, got "
        f"{ids.dtype}; encode the texts with a CharacterVocabulary"
      )
    if ids.ndim != 2:
      raise ValueError(
        "CharacterTransformer expects ids [batch, characters], got shape "
        f"{ids.shape}"
      )
    where = ids > 0
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    tokens = nn.Embed(
      self.vocabulary_size, self.width, **types, name="character_embedding"
    )(ids)
    tokens = Transformer(
      depth=self.depth,
      num_heads=self.num_heads,
      mlp_ratio=self.mlp_ratio,
      dropout_rate=self.dropout_rate,
      **types,
      name="transformer",
    )(tokens, train=train, where=where)
    return masked_mean(tokens, where)
