"""Cross-entropy of a positive against its negatives.

Van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive
Coding, arXiv 1807.03748.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_anchor,
  check_choice,
  check_contrast,
  check_directions,
  check_embeddings,
)
from pmrl_jax.losses._embeddings import prepare
from pmrl_jax.losses._negatives import (
  Route,
  Side,
  Sums,
  add_up,
  automatic_mesh,
  differ,
  first_place,
  lowest,
  shares_logits,
  sum_over_keys,
)

Pairs = Literal["all", "anchor"]
Positives = Literal["own", "ids"]
# Which query is compared with which key, by their places on axis 1.
Tasks = Sequence[tuple[int, int]]


class Target(NamedTuple):
  """What the softmax over candidates should be."""

  label_smoothing: float = 0.0  # share that is spread over all candidates
  positives: Positives = "own"


def instance_contrastive_loss(
  directions: jax.Array,
  *,
  temperature: ArrayLike,
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Pushes the directions of different instances apart.

  With unit directions u and temperature tau, for each instance i:

      -log( exp(u_i . u_i / tau) / sum_j exp(u_i . u_j / tau) )

  The positive is the instance itself, so this term only repels.

  Args:
    directions: `[batch, dim]`, one per instance.
    temperature: divides the cosines; a positive scalar.
    where: `[batch]` bool, which instances exist; None: all. The others are
      neither rows nor negatives, and their content never matters.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether directions are divided by their length first.
    label_smoothing: share of the target, from 0 to below 1, that is spread
      evenly over the positive and its negatives.
    block_size: see `pmrl_loss`, as are `axis_name`, `ring` and `precision`.
    axis_name: name of the mapped axis that the batch is split over.
    ring: whether keys travel around that axis instead of being gathered.
    precision: of the products.

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance that does not exist.

  Raises:
    TypeError: if a dtype is not floating (directions), bool (where) or
      integer (ids).
    ValueError: if a shape is another one, or a number is out of range.

  Reference:
    Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning,
    arXiv 2507.17343.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import instance_contrastive_loss
  >>> loss = instance_contrastive_loss(jnp.eye(3), temperature=0.5)
  >>> [round(float(value), 3) for value in loss]  # log(1 + 2 exp(-2))
  [0.24, 0.24, 0.24]
  """
  directions = jnp.asarray(directions)
  where = None if where is None else jnp.asarray(where)
  ids = None if ids is None else jnp.asarray(ids)
  check_directions(directions, where)
  route = Route(block_size, axis_name, ring)
  check_contrast(
    route,
    directions.shape[0],
    ids=ids,
    temperature=temperature,
    label_smoothing=label_smoothing,
  )
  u, _ = prepare(directions, where, normalize)
  u = u[:, None]
  losses = contrast(
    u,
    u,
    [(0, 0)],
    temperature=temperature,
    where=None if where is None else where[:, None],
    ids=ids,
    target=Target(label_smoothing),
    route=route,
    precision=precision,
  )
  return losses[:, 0]


def pairwise_contrastive_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  pairs: Pairs = "all",
  anchor: int = 0,
  positives: Positives = "own",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """InfoNCE between the modalities of an instance, pair by pair.

  With unit embeddings x and y of two modalities, for each instance i:

      -1/2 log( exp(x_i . y_i / tau) / sum_j exp(x_i . y_j / tau) )
      -1/2 log( exp(x_i . y_i / tau) / sum_j exp(x_j . y_i / tau) )

  averaged over all pairs of modalities (CLIP for two; quadratic in their
  number) or over the pairs with an anchor (ImageBind, LanguageBind; linear).

  Differs from the authors' code: any number of modalities, of which any may
  be absent; instances with the same id are no negatives, where CLIP, ImageBind
  and LanguageBind push copies of one caption apart; and the temperature is an
  argument, where they learn its inverse (see `bounded_temperature`).

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    temperature: divides the cosines; a positive scalar.
    pairs: `"all"` pairs of modalities, or those with the `"anchor"`.
    anchor: index of the anchor modality; only read for `pairs="anchor"`.
    positives: `"own"`, the instance's own pair alone; or `"ids"`, also those
      of all instances with the same id: the target is then spread evenly over
      them (Khosla et al., Supervised Contrastive Learning, arXiv 2004.11362,
      their loss L_out).
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. A pair takes
      part, as positive and as negative, if both of it are present.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether embeddings are divided by their length first.
    label_smoothing: share of the target, from 0 to below 1, that is spread
      evenly over positives and negatives.
    block_size: see `pmrl_loss`, as are `axis_name`, `ring` and `precision`.
    axis_name: name of the mapped axis that the batch is split over.
    ring: whether keys travel around that axis instead of being gathered.
    precision: of the products.

  Returns:
    `[batch]` losses, float32 or wider: the mean over the pairs that an
    instance has, 0 if it has none.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a number is out of range.

  Reference:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, arXiv 2103.00020; Girdhar et al., ImageBind, arXiv 2305.05665;
    Zhu et al., LanguageBind, arXiv 2310.01852.

  >>> import jax
  >>> from pmrl_jax.losses import pairwise_contrastive_loss
  >>> embeddings = jax.random.normal(jax.random.key(0), (8, 3, 16))
  >>> pairwise_contrastive_loss(embeddings, temperature=0.1).shape
  (8,)
  """
  embeddings = jnp.asarray(embeddings)
  where = None if where is None else jnp.asarray(where)
  ids = None if ids is None else jnp.asarray(ids)
  check_embeddings(embeddings, where)
  check_choice(positives, "positives", get_args(Positives))
  route = Route(block_size, axis_name, ring)
  check_contrast(
    route,
    embeddings.shape[0],
    ids=ids,
    temperature=temperature,
    label_smoothing=label_smoothing,
  )
  z, _ = prepare(embeddings, where, normalize)
  tasks = modality_pairs(embeddings.shape[1], pairs, anchor)
  present = presence_of_pairs(where, tasks)
  losses = contrast(
    z,
    z,
    tasks,
    temperature=temperature,
    where=present,
    ids=ids,
    both_ways=True,
    target=Target(label_smoothing, positives),
    route=route,
    precision=precision,
  )
  return mean_over_tasks(losses, present)


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
  if shares_logits(route, queries):
    sides = [
      (Side(query_rows[a], first, ids), Side(key_rows[b], first, ids))
      for a, b in tasks
    ]
    sums = _task_by_task(terms, sides, where, both_ways)
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


def cross_entropy(
  positives: jax.Array, logits: jax.Array, negatives: jax.Array, *, axis: int
) -> jax.Array:
  """Returns `-log softmax` of a positive among itself and its negatives.

  Args:
    positives: `[...]`, the logit that should win.
    logits: `[...]` with one more axis, the logits that should lose.
    negatives: bool of the shape of `logits`, which of them take part.
    axis: the axis of `logits` that runs over negatives.

  Returns:
    `[...]`, 0 (with zero gradient) where there is no negative.
  """
  losing = jnp.where(negatives, logits, lowest(logits.dtype))
  # log(1 + e^x) keeps losses far below the rounding of the logits themselves.
  return jax.nn.softplus(jax.nn.logsumexp(losing, axis=axis) - positives)


def _task_by_task(
  terms: Callable[..., Any],
  sides: list[tuple[Side, Side]],
  where: jax.Array | None,
  both_ways: bool,
) -> list[Sums]:
  """Returns the sums over keys and, both ways, those over queries.

  One task at a time takes less memory, and faster products, than all at once.
  """
  axes = (-1, -2) if both_ways else (-1,)
  parts: list[list[Sums]] = []
  for number, (queries, keys) in enumerate(sides):
    if where is not None:
      present = where[:, number : number + 1]
      queries = queries._replace(where=present)
      keys = keys._replace(where=present)
    logits, others = terms(queries, keys, tasks=((0, 0),))
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
  """As `_task_by_task`, along any route, with what is sent in one piece."""
  queries, keys = sides
  if not both_ways:
    terms = functools.partial(terms, tasks=tasks)
    return [sum_over_keys(terms, queries, keys, route)]
  if keys.values is not queries.values:
    num_queries = queries.values.shape[1]
    tasks = tuple((a, num_queries + b) for a, b in tasks)
    values = jnp.concatenate([queries.values, keys.values], axis=1)
    queries = queries._replace(values=values)
  if queries.where is not None:
    queries = queries._replace(where=jnp.tile(queries.where, (1, 2)))
  back = tuple((b, a) for a, b in tasks)
  terms = functools.partial(terms, tasks=(*tasks, *back))
  sums = sum_over_keys(terms, queries, queries, route)
  half = len(tasks)
  return [
    jax.tree.map(lambda x: x[:half], sums),
    jax.tree.map(lambda x: x[half:], sums),
  ]


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


def of_candidates(
  logits: jax.Array,
  negatives: jax.Array,
  alike: jax.Array | None,
  target: Target,
) -> tuple[jax.Array, Any]:
  """Returns the logits of candidates, and what the target needs beside them.

  Args:
    logits: `[task, query, key]`.
    negatives: bool `[task or 1, query, key]`, which are to lose.
    alike: bool like it, the other keys that share the query's id, or None.
    target: what the softmax should be.

  Returns:
    What `sum_over_keys` sums, for `cross_entropy_of_sums`.
  """
  candidates = negatives
  if target.positives == "own":
    alike = None
  elif alike is not None:
    candidates = candidates | alike
  masked = jnp.where(candidates, logits, lowest(logits.dtype))
  others = {}
  if target.label_smoothing:
    others["candidates"] = _selected(candidates, logits)
  if alike is not None:
    others["positives"] = _selected(alike, logits)
  return masked, others


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
  if len(tasks) > 1:
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


def _selected(
  mask: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the logits under a mask, and the mask as numbers to count."""
  return jnp.where(mask, logits, 0), jnp.broadcast_to(
    mask, logits.shape
  ).astype(logits.dtype)


def cross_entropy_of_sums(
  own: jax.Array, sums: Sums, target: Target
) -> jax.Array:
  """Returns `[task, query]`, from the sums over candidates but the own key.

  With the target shares t of the candidates, log-sum-exp - sum_c t_c logit_c.
  """
  # log(1 + e^x) keeps losses far below the rounding of the logits themselves.
  loss = jax.nn.softplus(jnp.asarray(sums.log_sum_exp) - own)
  share, goal = target.label_smoothing, own
  if "positives" in sums.of_terms:
    total, count = sums.of_terms["positives"]
    goal = (own + total) / (1 + count)
  if "candidates" in sums.of_terms:
    total, count = sums.of_terms["candidates"]
    goal = (1 - share) * goal + share * (own + total) / (1 + count)
  return loss if goal is own else loss + (own - goal)
