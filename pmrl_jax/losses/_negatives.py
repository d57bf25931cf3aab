"""Every instance against all instances: the sums behind contrastive losses.

A contrastive loss compares queries with keys, and of its logits
`[task, query, key]` it only needs sums over keys. There are four ways to
them, equal up to rounding: dense, all logits at once; in blocks of keys; over
the devices of a named axis, with the keys of all of them gathered; and around
a ring of these devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses._blocks import by_blocks, by_gathering, by_ring, gather
from pmrl_jax.losses._sums import Route, Side, Sums, Terms, add_up, count


def sum_over_keys(
  terms: Terms,
  queries: Side,
  keys: Side,
  route: Route,
  mirror: tuple[int, ...] | None = None,
) -> Sums:
  """Sums over all keys of the global batch.

  Args:
    terms: computes logits and further terms of some queries and keys.
    queries: the local ones.
    keys: the local ones.
    route: how the keys of all devices are walked through.
    mirror: where queries and keys are the same, for each task the one that
      compares the other way around: `terms(keys, queries)` are, transposed,
      those of the mirrored tasks. Gathered keys then are sent once, and their
      gradient not at all. None: not every task has one.

  Returns:
    The sums for the local queries.
  """
  block_size, axis_name, ring = route
  if axis_name is not None:
    queries, keys = varying((queries, keys), axis_name)
    if ring:
      block_size = min(block_size or count(keys), count(keys))
      return by_ring(terms, block_size, axis_name, queries, keys)
    if mirror is not None:
      most = count(keys) * jax.lax.axis_size(axis_name)
      block_size = block_size and min(block_size, most)
      return by_gathering(terms, mirror, block_size, axis_name, keys)
    keys = gather(keys, axis_name)
  if block_size is not None:
    if axis_name is None:
      keys = _on_every_device(keys)
    return by_blocks(terms, min(block_size, count(keys)), queries, keys)
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
  sums = sum_over_keys(both, side, keys, route, mirror=(1, 0))
  half = jax.tree.leaves(sums)[0].shape[0] // 2
  return [
    jax.tree.map(lambda x: x[:half], sums),
    jax.tree.map(lambda x: x[half:], sums),
  ]


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


def whole_batch(side: Side, axis_name: Any) -> Side:
  """Returns the instances of all devices, on every one of them."""
  if axis_name is None:
    return _on_every_device(side)
  return gather(varying(side, axis_name), axis_name)


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


def varying(tree: Any, axis_name: Any) -> Any:
  """Marks all leaves as different from device to device, for `shard_map`.

  A custom gradient must have the kind of its primal, and gradients differ. A
  choice by the index of the device does it in every version of jax.
  """
  somewhere = jax.lax.axis_index(axis_name) >= 0
  return jax.tree.map(
    lambda x: jnp.where(somewhere, x, jnp.zeros_like(x)), tree
  )
