"""Text: a transformer over characters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from pmrl_jax.encoders.transformer import TransformerEncoder


class CharacterTransformer(TransformerEncoder, kw_only=True):
  """A bidirectional transformer over character ids; id 0 is padding.

  Attributes:
    vocabulary_size: Number of character ids, padding and unknown included.
    The others: See `TransformerEncoder`.
  """

  vocabulary_size: int

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
    tokens = nn.Embed(
      self.vocabulary_size,
      self.width,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="character_embedding",
    )(ids)
    return self.encode(tokens, train=train, where=where)
