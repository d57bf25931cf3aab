"""Every instance against all instances: the sums behind contrastive losses.

A contrastive loss compares queries with keys, and of its logits
`[task, query, key]` it only needs sums over keys. There are four ways to
them, equal up to rounding:

* dense: all logits at once;
* blocks: a block of keys at a time, with a running log-sum-exp (Milakov and
  Gimelshein, Online normalizer calculation for softmax, arXiv 1805.02867);
  the backward pass computes the logits of each block again;
* over the devices of a named axis, with the keys of all of them gathered;
* over a ring of them: keys travel from device to device, so that none ever
  holds all of them (Liu, Zaharia, Abbeel, Ring Attention, arXiv 2310.01889).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec


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


def sum_over_keys(
  terms: Terms, queries: Side, keys: Side, route: Route
) -> Sums:
  """Sums over all keys of the global batch.

  Args:
    terms: computes logits and further terms of some queries and keys.
    queries: the local ones.
    keys: the local ones.
    route: how the keys of all devices are walked through.

  Returns:
    The sums for the local queries.
  """
  block_size, axis_name, ring = route
  if axis_name is not None:
    queries, keys = varying((queries, keys), axis_name)
    if ring:
      block_size = block_size or _count(keys)
      return _by_ring(terms, block_size, axis_name, queries, keys)
    keys = _gather(keys, axis_name)
  if block_size is not None:
    if axis_name is None:
      keys = _on_every_device(keys)
    return _by_blocks(terms, block_size, queries, keys)
  return add_up(*terms(queries, keys))


def sum_both_ways(terms: Terms, side: Side, route: Route) -> list[Sums]:
  """Sums over all keys, and over all queries, of the global batch.

  Args:
    terms: computes logits and further terms of some queries and keys.
    side: the local instances; each is a query as well as a key.
    route: how those of all devices are walked through.

  Returns:
    The sums for the local instances as queries, and for them as keys.
  """
  if shares_logits(route, jax.tree.leaves(side.values)[0]):
    logits, others = terms(side, side)
    return [add_up(logits, others, axis) for axis in (-1, -2)]

  def both(queries: Side, keys: Side) -> tuple[jax.Array | None, Any]:
    back = jax.tree.map(lambda x: x.swapaxes(-1, -2), terms(keys, queries))
    return jax.tree.map(
      lambda *ways: jnp.concatenate(ways), terms(queries, keys), back
    )

  keys = side if route.axis_name is not None else whole_batch(side, None)
  sums = sum_over_keys(both, side, keys, route)
  half = jax.tree.leaves(sums)[0].shape[0] // 2
  return [
    jax.tree.map(lambda x: x[:half], sums),
    jax.tree.map(lambda x: x[half:], sums),
  ]


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
  shape = (1, _count(queries), _count(keys))
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


def first_place(batch: int, axis_name: Any) -> jax.Array | int:
  """Returns the place of the first local instance in the global batch."""
  if axis_name is None:
    return 0
  return jax.lax.axis_index(axis_name).astype(jnp.int32) * batch


def shares_logits(route: Route, x: jax.Array) -> bool:
  """Whether rows and columns of the same logits should be summed.

  Where the batch is split over devices, the sums of columns would have to
  travel twice, for their maxima and for the rest; logits of their own do not.

  Args:
    route: how the keys are walked through.
    x: an array of the batch, which knows its mesh.
  """
  if route.axis_name is not None or route.block_size is not None:
    return False
  return automatic_mesh(x) is None


def lowest(dtype: Any) -> Any:
  """Returns the logit of what is no candidate.

  The lowest finite number, not -inf: a query without candidates then gets
  zero gradients, where -inf would give NaN.
  """
  return jnp.finfo(dtype).min


def _merge(a: Sums, b: Sums) -> Sums:
  return Sums(
    jax.tree.map(jnp.logaddexp, a.log_sum_exp, b.log_sum_exp),
    jax.tree.map(jnp.add, a.of_terms, b.of_terms),
  )


def _count(side: Side) -> int:
  return jax.tree.leaves((side.values, side.ids))[0].shape[0]


def whole_batch(side: Side, axis_name: Any) -> Side:
  """Returns the instances of all devices, on every one of them."""
  if axis_name is None:
    return _on_every_device(side)
  return _gather(varying(side, axis_name), axis_name)


def _gather(keys: Side, axis_name: Any) -> Side:
  """Collects the keys of all devices; their places need no collective."""
  values, _, ids, where = keys
  values, ids, where = jax.lax.all_gather(
    (values, ids, where), axis_name, tiled=True
  )
  return Side(values, 0, ids, where)


def automatic_mesh(x: jax.Array) -> Any:
  """Returns the mesh over which the compiler may split an array, or None."""
  mesh = jax.typeof(x).sharding.mesh
  automatic = AxisType.Auto in mesh.axis_types
  return mesh if automatic and mesh.size > 1 else None


def _on_every_device(keys: Side) -> Side:
  """Gathers the keys once, where the compiler would do so block by block."""
  mesh = automatic_mesh(jax.tree.leaves((keys.values, keys.ids))[0])
  if mesh is None or AxisType.Manual in mesh.axis_types:
    return keys
  copies = NamedSharding(mesh, PartitionSpec())
  values, first, ids, where = keys
  # The barrier keeps the queries split where they are the same array.
  values, ids, where = jax.lax.with_sharding_constraint(
    jax.lax.optimization_barrier((values, ids, where)), copies
  )
  return Side(values, first, ids, where)


# Blocks of keys.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_blocks(
  terms: Terms, block_size: int, queries: Side, keys: Side
) -> Sums:
  first, blocks = _split(keys, block_size)
  sums = add_up(*terms(queries, first))

  def add(sums: Sums, block: Side) -> tuple[Sums, None]:
    return _merge(sums, add_up(*terms(queries, block))), None

  return jax.lax.scan(add, sums, blocks)[0]


def _by_blocks_forward(
  terms: Terms, block_size: int, queries: Side, keys: Side
) -> tuple[Sums, Any]:
  sums = _by_blocks(terms, block_size, queries, keys)
  return sums, (queries, keys, sums.log_sum_exp)


def _by_blocks_backward(
  terms: Terms, block_size: int, saved: Any, cotangents: Sums
) -> tuple[Side, Side]:
  queries, keys, log_sum_exp = saved
  gradient = functools.partial(_gradient, terms, log_sum_exp, cotangents)
  first, blocks = _split(keys, block_size)
  d_queries, d_first = gradient(queries, first)

  def add(total: Any, block: Side) -> tuple[Any, Any]:
    d_queries, d_block = gradient(queries, block)
    return jax.tree.map(jnp.add, total, d_queries), d_block

  d_queries, d_blocks = jax.lax.scan(add, d_queries, blocks)
  d_keys = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b.reshape(-1, *a.shape[1:])]),
    d_first,
    d_blocks,
  )
  return _cotangent(d_queries), _cotangent(d_keys)


_by_blocks.defvjp(_by_blocks_forward, _by_blocks_backward)


def _split(keys: Side, block_size: int) -> tuple[Side, Side]:
  """Returns a first block, with the remainder, and the rest, stacked."""
  num_keys = _count(keys)
  cut = num_keys % block_size or min(block_size, num_keys)
  starts = jnp.arange(cut, num_keys, block_size, dtype=jnp.int32) + keys.first
  arrays = keys._replace(first=None)  # type: ignore[arg-type]
  return (
    jax.tree.map(lambda x: x[:cut], arrays)._replace(first=keys.first),
    jax.tree.map(
      lambda x: x[cut:].reshape(-1, block_size, *x.shape[1:]), arrays
    )._replace(first=starts),
  )


def _gradient(
  terms: Terms,
  log_sum_exp: jax.Array,
  cotangents: Sums,
  queries: Side,
  keys: Side,
) -> tuple[Any, Any]:
  """Gradients of the sums with respect to the values of both sides.

  The derivative of a log-sum-exp by a logit is exp(logit - log_sum_exp), so
  each block has its gradient without the others.
  """

  def weighted(query_values: Any, key_values: Any) -> jax.Array:
    logits, others = terms(
      queries._replace(values=query_values), keys._replace(values=key_values)
    )
    shares = None
    if logits is not None and log_sum_exp is not None:
      shares = jnp.exp(logits - log_sum_exp[..., None])
    products = jax.tree.map(
      lambda cotangent, term: jnp.sum(cotangent[..., None] * term),
      tuple(cotangents),
      (shares, others),
    )
    return sum(jax.tree.leaves(products), start=jnp.zeros(()))

  return jax.grad(weighted, argnums=(0, 1))(queries.values, keys.values)


def _cotangent(values: Any) -> Side:
  return Side(values, None, None, None)  # type: ignore[arg-type]


# A ring of devices.


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _by_ring(
  terms: Terms, block_size: int, axis_name: Any, queries: Side, keys: Side
) -> Sums:
  sums = _by_blocks(terms, block_size, queries, keys)

  def add(carry: tuple[Side, Sums], _: None) -> tuple[tuple[Side, Sums], None]:
    keys, sums = carry
    keys = pass_on(keys, axis_name)
    return (
      keys,
      _merge(sums, _by_blocks(terms, block_size, queries, keys)),
    ), None

  others = jax.lax.axis_size(axis_name) - 1
  (_, sums), _ = jax.lax.scan(add, (keys, sums), length=others)
  return sums


def _by_ring_forward(
  terms: Terms, block_size: int, axis_name: Any, queries: Side, keys: Side
) -> tuple[Sums, Any]:
  sums = _by_ring(terms, block_size, axis_name, queries, keys)
  return sums, (queries, keys, sums.log_sum_exp)


def _by_ring_backward(
  terms: Terms, block_size: int, axis_name: Any, saved: Any, cotangents: Sums
) -> tuple[Side, Side]:
  queries, keys, log_sum_exp = saved

  def gradient(keys: Side) -> tuple[Any, Any]:
    d_queries, d_keys = _by_blocks_backward(
      terms, block_size, (queries, keys, log_sum_exp), cotangents
    )
    return d_queries.values, d_keys.values

  d_queries, d_keys = gradient(keys)

  # The gradient of the keys travels with them, and at last goes home.
  def add(carry: Any, _: None) -> tuple[Any, None]:
    keys, d_queries, d_keys = carry
    keys, d_keys = pass_on((keys, d_keys), axis_name)
    more = gradient(keys)
    return (keys, *jax.tree.map(jnp.add, (d_queries, d_keys), more)), None

  others = jax.lax.axis_size(axis_name) - 1
  carry, _ = jax.lax.scan(add, (keys, d_queries, d_keys), length=others)
  _, d_queries, d_keys = carry
  return _cotangent(d_queries), _cotangent(pass_on(d_keys, axis_name))


_by_ring.defvjp(_by_ring_forward, _by_ring_backward)


def pass_on(tree: Any, axis_name: Any) -> Any:
  """Hands a tree on to the next device, and returns that of the previous."""
  size = jax.lax.axis_size(axis_name)
  steps = [(source, (source + 1) % size) for source in range(size)]
  return jax.lax.ppermute(tree, axis_name, steps)


def varying(tree: Any, axis_name: Any) -> Any:
  """Marks all leaves as different from device to device, for `shard_map`.

  A custom gradient must have the kind of its primal, and gradients differ. A
  choice by the index of the device does it in every version of jax.
  """
  somewhere = jax.lax.axis_index(axis_name) >= 0
  return jax.tree.map(
    lambda x: jnp.where(somewhere, x, jnp.zeros_like(x)), tree
  )
