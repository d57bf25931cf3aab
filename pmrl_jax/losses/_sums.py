"""Instances as queries and keys, and sums over the keys of each query."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Side(NamedTuple):
  """Instances as queries or as keys; every array is `[instance, ...]`.

  Only keys are split into blocks, gathered and passed on: the values and ids
  of queries may also hold what all of these share.
  """

  values: Any  # what logits are computed from, a tree of floating arrays
  first: jax.Array | int  # place of the first instance in the global batch
  ids: Any = None  # int [instance], None: all differ
  where: jax.Array | None = None  # bool [instance, task], None: all take part


class Sums(NamedTuple):
  """Sums over the keys of each query, all `[task, query]`."""

  log_sum_exp: jax.Array | None  # of the logits of candidates
  of_terms: Any = ()  # of the tree that came with the logits


class Route(NamedTuple):
  """How the keys are walked through."""

  block_size: int | None = None  # keys at a time; None: all
  axis_name: Any = None  # of the devices that share the batch
  ring: bool = False  # whether keys travel instead of being gathered


# `(queries, keys) -> (logits, terms)`: logits `[task, query, key]`, lowest
# where a key is no candidate (or None), and a tree of such arrays to be summed.
# A task is one comparison of the instances, as of images with texts.
Terms = Callable[[Side, Side], tuple[jax.Array | None, Any]]


def add_up(logits: jax.Array | None, terms: Any, axis: int = -1) -> Sums:
  """Sums logits and terms along an axis: -1 keys, or -2 queries."""
  return Sums(
    None if logits is None else jax.nn.logsumexp(logits, axis=axis),
    jax.tree.map(functools.partial(jnp.sum, axis=axis), terms),
  )


def differ(queries: Side, keys: Side) -> tuple[jax.Array, jax.Array | None]:
  """Tells which pairs are negatives, and which others share an id.

  Returns:
    Both bool `[task or 1, query, key]`, False where one of the two does not
    take part; the second is None if no two instances share an id.
  """
  shape = (1, count(queries), count(keys))
  others = (
    jax.lax.broadcasted_iota(jnp.int32, shape, 1) + queries.first
    != jax.lax.broadcasted_iota(jnp.int32, shape, 2) + keys.first
  )
  alike = None
  if queries.ids is not None and keys.ids is not None:
    same = queries.ids[None, :, None] == keys.ids[None, None, :]
    others, alike = ~same, same & others
  if queries.where is not None and keys.where is not None:
    both = queries.where.T[:, :, None] & keys.where.T[:, None, :]
    others = others & both
    alike = None if alike is None else alike & both
  return others, alike


def lowest(dtype: Any) -> Any:
  """Returns the logit of what is no candidate.

  The lowest finite number, not -inf: a query without candidates then gets
  zero gradients, where -inf would give NaN.
  """
  return jnp.finfo(dtype).min


def merge(a: Sums, b: Sums) -> Sums:
  """Returns the sums over the keys of both."""
  return Sums(
    jax.tree.map(jnp.logaddexp, a.log_sum_exp, b.log_sum_exp),
    jax.tree.map(jnp.add, a.of_terms, b.of_terms),
  )


def count(side: Side) -> int:
  """Returns the number of instances."""
  return jax.tree.leaves((side.values, side.ids))[0].shape[0]
