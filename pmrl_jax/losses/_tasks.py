"""Comparisons of modalities: which queries are set against which keys."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import check_anchor, check_choice
from pmrl_jax.losses._cross_entropy import (
  Target,
  cross_entropy_of_sums,
  of_candidates,
)
from pmrl_jax.losses._negatives import (
  automatic_mesh,
  first_place,
  sum_over_keys,
)
from pmrl_jax.losses._sums import Route, Side, Sums, add_up, differ

Pairs = Literal["all", "anchor"]


# Which query is compared with which key, by their places on axis 1.
Tasks = Sequence[tuple[int, int]]


def modality_pairs(num_modalities: int, pairs: Pairs, anchor: int) -> Tasks:
  """Returns the pairs of modalities that are compared.

  Args:
    num_modalities: how many there are.
    pairs: `"all"`, or those with the `"anchor"`.
    anchor: its index.

  Raises:
    ValueError: for an unknown choice or an anchor that does not exist.
  """
  check_choice(pairs, "pairs", get_args(Pairs))
  if pairs == "all":
    return list(itertools.combinations(range(num_modalities), 2))
  anchor = check_anchor(anchor, num_modalities)
  return [(anchor, n) for n in range(num_modalities) if n != anchor]


def presence_of_pairs(
  where: jax.Array | None, tasks: Tasks
) -> jax.Array | None:
  """Returns `[batch, pair]` bool, which pairs are complete; None: all."""
  if where is None:
    return None
  return jnp.stack([where[:, a] & where[:, b] for a, b in tasks], axis=1)


def mean_over_tasks(losses: jax.Array, where: jax.Array | None) -> jax.Array:
  """Returns the mean `[batch]` over the tasks an instance takes part in."""
  if where is None:
    return jnp.mean(losses, axis=1)
  count = jnp.sum(where, axis=1, dtype=jnp.int32)
  return jnp.sum(losses, axis=1) / jnp.maximum(count, 1)


def contrast(
  queries: jax.Array,
  keys: jax.Array,
  tasks: Tasks,
  *,
  temperature: ArrayLike,
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  both_ways: bool = False,
  target: Target = Target(),  # noqa: B008, immutable
  route: Route = Route(),  # noqa: B008
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Tells the key of the same instance from the keys of all others.

  Args:
    queries: `[batch, query, dim]`.
    keys: `[batch, key, dim]`; the same array where both are the same.
    tasks: which query is compared with which key.
    temperature: divides the products.
    where: `[batch, task]` bool, the instances whose query and key both exist;
      None: all.
    ids: `[batch]` integers, the same for instances that are no negatives.
    both_ways: whether each key must also find its query; the two are averaged.
    target: what the softmax should be.
    route: how the keys are walked through.
    precision: of the products.

  Returns:
    `[batch, task]` losses, 0 where `where` is False.
  """
  # Half of the temperature for each side keeps a product with itself one.
  scale = jnp.asarray(temperature, queries.dtype) ** -0.5
  scaled = queries * scale
  queries, keys = scaled, scaled if keys is queries else keys * scale
  query_rows = _rows(queries)
  key_rows = query_rows if keys is queries else _rows(keys)
  own = jnp.stack([_own(query_rows[a], key_rows[b]) for a, b in tasks])

  first = first_place(queries.shape[0], route.axis_name)
  terms = functools.partial(_terms, target=target, precision=precision)
  if route.axis_name is None and automatic_mesh(queries) is None:
    sides = [
      (Side(query_rows[a], first, ids), Side(key_rows[b], first, ids))
      for a, b in tasks
    ]
    sums = _task_by_task(terms, sides, where, both_ways, route)
  else:
    sums = _all_tasks(
      terms,
      (Side(queries, first, ids, where), Side(keys, first, ids, where)),
      tuple(tasks),
      both_ways,
      route,
    )
  ways = [cross_entropy_of_sums(own, each, target) for each in sums]
  losses = (sum(ways[1:], start=ways[0]) / len(ways)).T
  return losses if where is None else jnp.where(where, losses, 0)


def _task_by_task(
  terms: Callable[..., Any],
  sides: list[tuple[Side, Side]],
  where: jax.Array | None,
  both_ways: bool,
  route: Route,
) -> list[Sums]:
  """Returns the sums over keys and, both ways, those over queries.

  On one device, where nothing is sent: one task at a time takes less memory,
  and faster products, than all at once.
  """
  terms = functools.partial(terms, tasks=((0, 0),))
  parts: list[list[Sums]] = []
  for number, (queries, keys) in enumerate(sides):
    if where is not None:
      present = where[:, number : number + 1]
      queries = queries._replace(where=present)
      keys = keys._replace(where=present)
    if route.block_size is not None:
      ways = [(queries, keys), (keys, queries)][: 1 + both_ways]
      parts.append([sum_over_keys(terms, *way, route) for way in ways])
    else:
      # The same logits, along either axis.
      logits, others = terms(queries, keys)
      axes = (-1, -2)[: 1 + both_ways]
      parts.append([add_up(logits, others, axis) for axis in axes])
  return [
    jax.tree.map(lambda *sums: jnp.concatenate(sums), *way)
    for way in zip(*parts)
  ]


def _all_tasks(
  terms: Callable[..., Any],
  sides: tuple[Side, Side],
  tasks: tuple[tuple[int, int], ...],
  both_ways: bool,
  route: Route,
) -> list[Sums]:
  """As `_task_by_task`, on many devices, with what is sent in one piece."""
  queries, keys = sides
  if not both_ways:
    terms = functools.partial(terms, tasks=tasks)
    mirror = _mirror(tasks) if keys.values is queries.values else None
    return [sum_over_keys(terms, queries, keys, route, mirror)]
  if keys.values is not queries.values:
    num_queries = queries.values.shape[1]
    tasks = tuple((a, num_queries + b) for a, b in tasks)
    values = jnp.concatenate([queries.values, keys.values], axis=1)
    queries = queries._replace(values=values)
  if queries.where is not None:
    queries = queries._replace(where=jnp.tile(queries.where, (1, 2)))
  back = tuple((b, a) for a, b in tasks)
  half = len(tasks)
  tasks = (*tasks, *back)
  terms = functools.partial(terms, tasks=tasks)
  sums = sum_over_keys(terms, queries, queries, route, _mirror(tasks))
  return [
    jax.tree.map(lambda x: x[:half], sums),
    jax.tree.map(lambda x: x[half:], sums),
  ]


def _mirror(tasks: tuple[tuple[int, int], ...]) -> tuple[int, ...] | None:
  """Returns the place of each task's opposite, None if one has none."""
  back = [(b, a) for a, b in tasks]
  return tuple(map(tasks.index, back)) if set(back) <= set(tasks) else None


def _terms(
  queries: Side,
  keys: Side,
  *,
  tasks: Tasks,
  target: Target,
  precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, Any]:
  logits = products(queries.values, keys.values, tasks, precision)
  return of_candidates(logits, *differ(queries, keys), target)


def products(
  queries: jax.Array,
  keys: jax.Array,
  tasks: Tasks,
  precision: jax.lax.PrecisionLike,
) -> jax.Array:
  """Returns the products `[task, query, key]` of all queries with all keys.

  Accelerators round the factors of a product to bfloat16 or TF32 unless told
  otherwise; divided by a small temperature that error would show.

  Args:
    queries: `[query, ..., dim]`.
    keys: `[key, ..., dim]`.
    tasks: which row of a query is compared with which row of a key.
    precision: as in `jnp.einsum`.
  """
  if len(tasks) > 1 and automatic_mesh(keys) is None:
    rows = _rows(queries), _rows(keys)
    return jnp.concatenate(
      [products(rows[0][a], rows[1][b], ((0, 0),), precision) for a, b in tasks]
    )
  if len(tasks) > 1:
    # As one product, so that what the compiler sends is in one piece.
    if any(task != (row, row) for row, task in enumerate(tasks)):
      first, second = (list(side) for side in zip(*tasks))
      queries, keys = queries[:, first], keys[:, second]
    return jnp.einsum("btd,Btd->tbB", queries, keys, precision=precision)
  ((a, b),) = tasks
  # Split over devices, the gradient of one product would be gathered twice.
  if queries is keys and a == b and automatic_mesh(queries) is None:
    return _with_itself(queries[:, a], precision)[None]
  return jnp.einsum(
    "bd,Bd->bB", queries[:, a], keys[:, b], precision=precision
  )[None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _with_itself(x: jax.Array, precision: jax.lax.PrecisionLike) -> jax.Array:
  """Returns `x x^T`; its gradient takes one product, not two."""
  return jnp.einsum("bd,Bd->bB", x, x, precision=precision)


@_with_itself.defjvp
def _with_itself_jvp(precision, primals, tangents):
  (x,), (dx,) = primals, tangents
  half = jnp.einsum("bd,Bd->bB", dx, x, precision=precision)
  return _with_itself(x, precision), half + half.T


def _rows(x: jax.Array) -> list[jax.Array]:
  """Returns the rows `[batch, 1, dim]` of all instances.

  The gradient of a split is one concatenation; those of slices would each be
  padded to the whole array before they are added.
  """
  return jnp.split(x, x.shape[1], axis=1)


def _own(query: jax.Array, key: jax.Array) -> jax.Array:
  return jnp.einsum("bod,bod->b", query, key, precision="highest")
