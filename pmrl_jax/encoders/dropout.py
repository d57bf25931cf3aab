"""The dropout of the large encoders."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# A draw is a number of so many bits, of which a word of 32 holds two.
_BITS = 16
_LEVELS = 2**_BITS


class Dropout(nn.Module):
  """Sets numbers to zero at random, and divides others by the share of them.

  As `flax.linen.Dropout`, for half its random bits: 16 decide about a number,
  so the rate is rounded to a multiple of 2^-16. What is kept is divided by the
  share that the rounded rate keeps.

  Reference: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks
  from Overfitting, JMLR 15 (2014).

  Attributes:
    rate: Probability to be set to zero, at least 0 and below 1.
    deterministic: Whether nothing is dropped. Otherwise there must be a key
      named "dropout".
  """

  rate: float
  deterministic: bool

  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps an array to one of its shape and dtype.

    Raises:
      ValueError: If the rate is out of range.
    """
    if not 0 <= self.rate < 1:
      raise ValueError(
        f"a dropout rate must be at least 0 and below 1, got {self.rate}"
      )
    if self.deterministic or self.rate == 0:
      return x
    kept = min(max(round((1 - self.rate) * _LEVELS), 1), _LEVELS - 1)
    where = _draw(self.make_rng("dropout"), x.shape, kept)
    return jnp.where(where, x * (_LEVELS / kept), 0)


def _draw(key: jax.Array, shape: tuple[int, ...], kept: int) -> jax.Array:
  """True with probability `kept / _LEVELS`, independently."""
  *rows, width = shape
  words = jax.random.bits(key, (*rows, -(-width // 2)), jnp.uint32)
  halves = jnp.concatenate([words & (_LEVELS - 1), words >> _BITS], axis=-1)
  return halves[..., :width] < kept
