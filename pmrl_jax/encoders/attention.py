"""Attention by heads, as the encoders share it."""

import math
from collections.abc import Callable, Sequence

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


def attend_by_groups(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  reads: Sequence[int],
  *,
  bias: jax.Array | None = None,
  dropout: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
  """`attend`, where several queries may read the same keys and values.

  Of every group, the queries that read the same source are one longer query:
  the source is neither projected nor copied for each of them.

  Args:
    query: `[groups · len(reads), query, head, dim]`.
    key: `[groups · sources, key, head, dim]`, with `max(reads) + 1` sources.
    value: Likewise.
    reads: Which source of its group each query of the group reads.
    bias: Optional float32, `[groups · sources, 1 or head, 1, key]`. With one
      query to a source the third axis may be that of the query.
    dropout: See `attend`.

  Returns:
    `[groups · len(reads), query, head, dim]`.
  """
  if list(reads) == [0]:
    return attend(query, key, value, bias=bias, dropout=dropout)
  num_sources = max(reads) + 1
  groups = len(key) // num_sources
  queries = query.reshape(groups, len(reads), *query.shape[1:])

  def of_source(x: jax.Array, source: int) -> jax.Array:
    return x.reshape(groups, num_sources, *x.shape[1:])[:, source]

  results: dict[int, jax.Array] = {}
  for source in range(num_sources):
    rows = [row for row, read in enumerate(reads) if read == source]
    y = attend(
      jnp.concatenate([queries[:, row] for row in rows], axis=1),
      of_source(key, source),
      of_source(value, source),
      bias=None if bias is None else of_source(bias, source),
      dropout=dropout,
    )
    results |= zip(rows, jnp.split(y, len(rows), axis=1))
  in_order = [results[row] for row in range(len(reads))]
  return jnp.stack(in_order, axis=1).reshape(query.shape)
