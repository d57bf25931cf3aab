"""Attention by heads, as the encoders share it."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def check_heads(width: int, num_heads: int) -> None:
  """Raises `ValueError` if the heads do not divide the width."""
  if width % num_heads:
    raise ValueError(
      f"the width must be a multiple of num_heads, got width {width} and "
      f"{num_heads} heads; change one of the two"
    )


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  bias: jax.Array | None = None,
  dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """Attention by heads, `softmax(q k / sqrt(d) + bias) v`.

  Args:
    query: `[batch, query, head, dim]`.
    key: `[batch, key, head, dim]`.
    value: `[batch, key, head, dim]`.
    bias: Optional float32, `[batch, head, query, key]`; any axis may be 1.
    dropout: Applied to the weights, `[batch, head, query, key]`.

  Returns:
    `[batch, query, head, dim]`. Scores and softmax are float32, whatever
    comes in.
  """
  # Heads before tokens: the products of a head are then matrices that lie in
  # one piece. Elsewhere the compiler chooses the same, on a CPU it does not.
  q, k, v = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
  scores = jnp.einsum(
    "bhqd,bhkd->bhqk",
    q / math.sqrt(q.shape[-1]),
    k,
    preferred_element_type=jnp.float32,
  )
  if bias is not None:
    scores = scores + bias
  weights = jax.nn.softmax(scores).astype(value.dtype)
  if dropout is not None:
    weights = dropout(weights)
  return jnp.einsum("bhqk,bhkd->bhqd", weights, v).transpose(0, 2, 1, 3)
