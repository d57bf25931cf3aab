"""A block of keys at a time, those of all devices, and around a ring of them.

Sums over blocks have a running log-sum-exp (Milakov and Gimelshein, Online
normalizer calculation for softmax, arXiv 1805.02867); the backward pass
computes the logits of each block again. Gathered, instances are sent once: a
device has the gradient of its own from the sums of the others, which are a few
numbers, and not from the others' gradients, which are as large as what was
gathered. On a ring, keys travel from device to device, so that none ever holds
all of them (Liu, Zaharia, Abbeel, Ring Attention, arXiv 2310.01889).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pmrl_jax.losses._sums import Side, Sums, Terms, add_up, count, merge


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def by_blocks(terms: Terms, block_size: int, queries: Side, keys: Side) -> Sums:
  """Sums over all keys, `block_size` at a time; see `sum_over_keys`."""
  cut, starts = _starts(keys, block_size)
  sums = add_up(*terms(queries, _block(keys, 0, cut)))

  def add(sums: Sums, start: jax.Array) -> tuple[Sums, None]:
    block = _block(keys, start, block_size)
    return merge(sums, add_up(*terms(queries, block))), None

  return jax.lax.scan(add, sums, starts)[0]


def _blocks_forward(
  terms: Terms, block_size: int, queries: Side, keys: Side
) -> tuple[Sums, Any]:
  sums = by_blocks(terms, block_size, queries, keys)
  return sums, (queries, keys, sums.log_sum_exp)


def _blocks_backward(
  terms: Terms, block_size: int, saved: Any, cotangents: Sums
) -> tuple[Side, Side]:
  queries, keys, log_sum_exp = saved
  gradient = functools.partial(_gradient, terms, log_sum_exp, cotangents)
  cut, starts = _starts(keys, block_size)
  d_queries, d_first = gradient(queries, _block(keys, 0, cut))
  # Each block's gradient is written into its place: no second copy of all.
  d_keys = jax.tree.map(
    lambda d, x: jnp.concatenate([d, jnp.zeros_like(x[cut:])]),
    d_first,
    keys.values,
  )

  def add(carry: Any, start: jax.Array) -> tuple[Any, None]:
    total, d_keys = carry
    d_queries, d_block = gradient(queries, _block(keys, start, block_size))
    d_keys = jax.tree.map(
      lambda d, x: jax.lax.dynamic_update_slice_in_dim(d, x, start, axis=0),
      d_keys,
      d_block,
    )
    return (jax.tree.map(jnp.add, total, d_queries), d_keys), None

  (d_queries, d_keys), _ = jax.lax.scan(add, (d_queries, d_keys), starts)
  return _cotangent(d_queries), _cotangent(d_keys)


by_blocks.defvjp(_blocks_forward, _blocks_backward)


def _starts(keys: Side, block_size: int) -> tuple[int, jax.Array]:
  """Returns the size of the first block, and where the others start.

  The first one is what the others leave over, if they do not fit exactly.
  """
  num_keys = count(keys)
  cut = num_keys % block_size or min(block_size, num_keys)
  return cut, jnp.arange(cut, num_keys, block_size, dtype=jnp.int32)


def _block(keys: Side, start: jax.Array | int, size: int) -> Side:
  values, ids, where = jax.tree.map(
    lambda x: jax.lax.dynamic_slice_in_dim(x, start, size),
    (keys.values, keys.ids, keys.where),
  )
  return Side(values, keys.first + start, ids, where)


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

  def terms_of(query_values: Any, key_values: Any) -> tuple[Any, Any]:
    return terms(
      queries._replace(values=query_values), keys._replace(values=key_values)
    )

  summed, pull = jax.vjp(terms_of, queries.values, keys.values)
  return pull(_cotangents(summed, log_sum_exp, cotangents, axis=-1))


def _cotangents(
  summed: tuple[jax.Array | None, Any],
  log_sum_exp: jax.Array | None,
  of_sums: Sums,
  *,
  axis: int,
) -> tuple[jax.Array | None, Any]:
  """Cotangents of what was summed along an axis, by those of its sums."""
  logits, others = summed
  of_logits = None
  if logits is not None:
    of_logits = jnp.exp(
      logits - jnp.expand_dims(jnp.asarray(log_sum_exp), axis)
    ) * jnp.expand_dims(jnp.asarray(of_sums.log_sum_exp), axis)
  return of_logits, jax.tree.map(
    lambda term, of_sum: jnp.broadcast_to(
      jnp.expand_dims(of_sum, axis), term.shape
    ),
    others,
    of_sums.of_terms,
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def by_gathering(
  terms: Terms,
  mirror: tuple[int, ...],
  block_size: int | None,
  axis_name: Any,
  side: Side,
) -> Sums:
  """Sums over the instances of all devices, which are gathered.

  Args:
    terms: see `sum_over_keys`.
    mirror: see `sum_over_keys`.
    block_size: see `Route`.
    axis_name: of the devices that share the batch.
    side: the local instances, as queries and as keys.
  """
  return _gathering_forward(terms, mirror, block_size, axis_name, side)[0]


def _gathering_forward(
  terms: Terms,
  mirror: tuple[int, ...],
  block_size: int | None,
  axis_name: Any,
  side: Side,
) -> tuple[Sums, Any]:
  del mirror
  everyone = gather(side, axis_name)
  if block_size is None:
    sums = add_up(*terms(side, everyone))
  else:
    sums = by_blocks(terms, block_size, side, everyone)
  return sums, (side, everyone, sums.log_sum_exp)


def _gathering_backward(
  terms: Terms,
  mirror: tuple[int, ...],
  block_size: int | None,
  axis_name: Any,
  saved: Any,
  cotangents: Sums,
) -> tuple[Side]:
  side, everyone, log_sum_exp = saved
  ours = log_sum_exp, cotangents
  theirs = _gather_sums(ours, axis_name)

  def gradient(start: jax.Array | int, size: int) -> Any:
    block = _block(everyone, start, size)
    of_block = jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, start, size, axis=1), theirs
    )
    summed, pull = jax.vjp(
      lambda values: terms(side._replace(values=values), block), side.values
    )
    # As keys: in the sums of the others, of the same logits the other way.
    of_block = jax.tree.map(lambda x: x[jnp.array(mirror)], of_block)
    as_queries = _cotangents(summed, *ours, axis=-1)
    as_keys = _cotangents(summed, *of_block, axis=-2)
    return pull(jax.tree.map(jnp.add, as_queries, as_keys))[0]

  if block_size is None:
    return (_cotangent(gradient(0, count(everyone))),)
  cut, starts = _starts(everyone, block_size)

  def add(total: Any, start: jax.Array) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, total, gradient(start, block_size)), None

  d_values, _ = jax.lax.scan(add, gradient(0, cut), starts)
  return (_cotangent(d_values),)


by_gathering.defvjp(_gathering_forward, _gathering_backward)


def gather(side: Side, axis_name: Any) -> Side:
  """Collects the instances of all devices; places need no collective."""
  values, _, ids, where = side
  values, ids, where = jax.lax.all_gather(
    (values, ids, where), axis_name, tiled=True
  )
  return Side(values, 0, ids, where)


def _gather_sums(sums: Any, axis_name: Any) -> Any:
  """Collects `[task, query]` arrays of one kind, in one piece."""
  leaves, tree = jax.tree.flatten(sums)
  everyones = jax.lax.all_gather(
    jnp.stack(leaves), axis_name, axis=2, tiled=True
  )
  return jax.tree.unflatten(tree, list(everyones))


def _cotangent(values: Any) -> Side:
  return Side(values, None, None, None)  # type: ignore[arg-type]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def by_ring(
  terms: Terms, block_size: int, axis_name: Any, queries: Side, keys: Side
) -> Sums:
  """Sums over the keys of all devices, each of which holds a share of them."""
  sums = by_blocks(terms, block_size, queries, keys)

  def add(carry: tuple[Side, Sums], _: None) -> tuple[tuple[Side, Sums], None]:
    keys, sums = carry
    keys = pass_on(keys, axis_name)
    return (
      keys,
      merge(sums, by_blocks(terms, block_size, queries, keys)),
    ), None

  others = jax.lax.axis_size(axis_name) - 1
  (_, sums), _ = jax.lax.scan(add, (keys, sums), length=others)
  return sums


def _ring_forward(
  terms: Terms, block_size: int, axis_name: Any, queries: Side, keys: Side
) -> tuple[Sums, Any]:
  sums = by_ring(terms, block_size, axis_name, queries, keys)
  return sums, (queries, keys, sums.log_sum_exp)


def _ring_backward(
  terms: Terms, block_size: int, axis_name: Any, saved: Any, cotangents: Sums
) -> tuple[Side, Side]:
  queries, keys, log_sum_exp = saved

  def gradient(keys: Side) -> tuple[Any, Any]:
    d_queries, d_keys = _blocks_backward(
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


by_ring.defvjp(_ring_forward, _ring_backward)


def pass_on(tree: Any, axis_name: Any) -> Any:
  """Hands a tree on to the next device, and returns that of the previous."""
  size = jax.lax.axis_size(axis_name)
  steps = [(source, (source + 1) % size) for source in range(size)]
  return jax.lax.ppermute(tree, axis_name, steps)
