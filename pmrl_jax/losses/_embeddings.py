"""From what a model returns to the numbers that the losses work on.

Absent modalities become zeros, everything becomes at least float32, and rows
become unit vectors, in a way whose gradient is finite at zero.
"""

import jax
import jax.numpy as jnp

# A shorter row counts as zero: it has no direction worth a gradient.
_SHORTEST = 1e-12


def as_arrays(
  x: jax.Array, where: jax.Array | None, ids: jax.Array | None
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Returns what a caller passed in, NumPy arrays or lists too, as arrays."""
  return (
    jnp.asarray(x),
    None if where is None else jnp.asarray(where),
    None if ids is None else jnp.asarray(ids),
  )


def prepare(
  embeddings: jax.Array, where: jax.Array | None, normalize: bool
) -> tuple[jax.Array, jax.Array]:
  """Returns float32 (or float64) embeddings and their presence mask.

  Args:
    embeddings: `[..., dim]`, any floating dtype.
    where: `[...]` bool, True where an embedding is present; None: everywhere.
    normalize: whether rows are divided by their length.

  Returns:
    The embeddings, zero where absent, and the mask, both without None.
  """
  if where is None:
    where = jnp.ones(embeddings.shape[:-1], bool)
  # Before any arithmetic: 0 * NaN is NaN, in the values and in the gradient.
  z = jnp.where(where[..., None], embeddings, 0)
  z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
  return (unit(z) if normalize else z), where


def unit(x: jax.Array) -> jax.Array:
  """Returns `x / ||x||` along the last axis; zero stays zero."""
  length, is_zero = _length(x)
  return jnp.where(is_zero, 0, x / length)


def inverse_length(square: jax.Array) -> jax.Array:
  """Returns `1 / ||x||` of a squared length; that of zero is zero."""
  is_zero = square <= _SHORTEST**2
  return jnp.where(is_zero, 0, 1 / jnp.sqrt(jnp.where(is_zero, 1, square)))


def norm(x: jax.Array) -> jax.Array:
  """Returns `||x||` along the last axis; its gradient at zero is zero."""
  length, is_zero = _length(x)
  return jnp.where(is_zero, 0, length)[..., 0]


def _length(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  # `<=` is false for NaN, so that NaN is passed on and never hidden.
  is_zero = square <= _SHORTEST**2
  # The branch that is not taken must be differentiable too.
  return jnp.sqrt(jnp.where(is_zero, 1, square)), is_zero
