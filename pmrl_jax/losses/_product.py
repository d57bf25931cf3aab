"""The product of all modalities at once, against products of others.

Saporta, Puli, Goldstein, Ranganath, Contrasting with Symile: Simple
Model-Agnostic Representation Learning for Unlimited Modalities, arXiv
2411.01053.
"""

import functools
import operator
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._blocks import pass_on
from pmrl_jax.losses._checks import (
  check_choice,
  check_contrast,
  check_embeddings,
)
from pmrl_jax.losses._cross_entropy import (
  Target,
  cross_entropy_of_sums,
  of_candidates,
)
from pmrl_jax.losses._embeddings import as_arrays, prepare
from pmrl_jax.losses._negatives import (
  first_place,
  sum_over_keys,
  varying,
  whole_batch,
)
from pmrl_jax.losses._sums import Route, Side, Sums

Negatives = Literal["shuffled", "all"]

# More tuples than these do not belong into one array of logits.
_MOST_AT_ONCE = 2**18


def product_contrastive_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  negatives: Negatives = "shuffled",
  key: jax.Array | None = None,
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Tells the product of an instance's modalities from mixtures (Symile).

  With unit embeddings z of N modalities and the multilinear inner product

      <x, y, ...> = dim^((N - 2) / 2) * sum_d x_d y_d ...

  each modality m in turn is the anchor, and the loss of instance i is the mean
  over m of

      -log( exp(<z_i> / tau) / (exp(<z_i> / tau)
            + sum_t exp(<z_mi, y_t> / tau)) )

  where <z_i> is the product of all modalities of i, and y_t are tuples of the
  other modalities, each from an instance of its own. For two modalities this
  is `pairwise_contrastive_loss`, whatever the negatives. For more, no pair
  need be alike: a product does not change when two modalities become their
  opposites.

  Differs from the authors' code:

  * Logits have the factor dim^((N - 2) / 2), without which products of unit
    vectors shrink with N: now random ones spread by dim^(-1/2) for every N, as
    cosines do, so that temperatures are comparable. Their scale is learned.
  * A tuple whose members all have the anchor's id is no negative; theirs may
    be the positive itself. And all shuffled tuples count, as many as there are
    instances, where theirs are one less.
  * `"shuffled"` permutes each modality once, not anew for every anchor.
  * Instances that lack a modality are left out, as anchors and in tuples: a
    product needs all of its factors, and without one is that of another N.
    They tell the encoders what is missing instead; a caller may do so too,
    and leave `where` out.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    temperature: divides the products; a positive scalar.
    negatives: `"shuffled"`: each modality is permuted over the batch, which
      makes as many tuples as instances; or `"all"`: all batch^(N - 1) tuples,
      exact and the same at every step.
    key: a random key for `"shuffled"`, another one at each step, the same on
      all devices.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. An instance
      takes part if all are present.
    ids: `[batch]` integers, see above. None: all differ.
    normalize: whether embeddings are divided by their length first.
    label_smoothing: share of the target, from 0 to below 1, that is spread
      evenly over the positive and its negatives.
    block_size: see `pmrl_loss`, as are `axis_name`, `ring` and `precision`.
      Of `"all"`, a block is so many tuples, built when its turn comes.
    axis_name: name of the mapped axis that the batch is split over.
    ring: whether keys travel around that axis instead of being gathered; not
      with `"all"`, whose tuples need all instances at hand.
    precision: of the products.

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance that does not take
    part.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a number is out of range, if `key` is
      missing, or if there are too many tuples.

  Reference:
    Saporta, Puli, Goldstein, Ranganath, Contrasting with Symile, arXiv
    2411.01053.

  >>> import jax
  >>> from pmrl_jax.losses import product_contrastive_loss
  >>> x = jax.random.normal(jax.random.key(0), (8, 3, 16))
  >>> product_contrastive_loss(x, temperature=0.3, negatives="all").shape
  (8,)
  >>> product_contrastive_loss(x, temperature=0.3, key=jax.random.key(1)).shape
  (8,)
  """
  embeddings, where, ids = as_arrays(embeddings, where, ids)
  check_embeddings(embeddings, where)
  check_choice(negatives, "negatives", get_args(Negatives))
  route = Route(block_size, axis_name, ring)
  batch, num_modalities, dim = embeddings.shape
  check_contrast(
    route,
    batch,
    ids=ids,
    temperature=temperature,
    label_smoothing=label_smoothing,
  )
  z, _ = prepare(embeddings, where, normalize)
  complete = None if where is None else jnp.all(where, axis=1, keepdims=True)
  local = Side(z, first_place(batch, axis_name), ids, complete)
  if axis_name is not None:
    local = varying(local, axis_name)
    z = local.values
  scale = dim ** ((num_modalities - 2) / 2) / jnp.asarray(temperature, z.dtype)
  anchors = local._replace(values=z * scale, ids=_identities(local))
  target = Target(label_smoothing)
  options = {"target": target, "precision": precision}
  if negatives == "all":
    sums = _over_all(anchors, local, route, options)
  else:
    sums = _over_shuffled(anchors, local, key, route, options)
  own = jnp.sum(
    anchors.values[:, 0] * _product(z, range(1, num_modalities)), axis=1
  )
  losses = jnp.mean(cross_entropy_of_sums(own[None], sums, target), axis=0)
  return losses if complete is None else jnp.where(complete[:, 0], losses, 0)


def _identities(side: Side) -> jax.Array:
  """Returns `[instance]`: ids, or places in the global batch."""
  if side.ids is not None:
    return side.ids
  return jnp.arange(side.values.shape[0], dtype=jnp.int32) + side.first


def _product(factors: jax.Array, modalities: Any) -> jax.Array:
  """Returns the product `[instance, dim]` of some modalities."""
  return functools.reduce(operator.mul, (factors[:, m] for m in modalities))


def _others(num_modalities: int) -> list[list[int]]:
  """Returns for each modality all the others."""
  everything = range(num_modalities)
  return [[n for n in everything if n != m] for m in everything]


# Shuffled: tuple t holds instance index[t, m] of modality m.


def _over_shuffled(
  anchors: Side,
  local: Side,
  key: jax.Array | None,
  route: Route,
  options: dict[str, Any],
) -> Sums:
  if key is None:
    raise ValueError(
      "`negatives='shuffled'` needs a random `key`, got None; give another "
      "one at each step, or use negatives='all'."
    )
  batch, num_modalities, _ = local.values.shape
  axis_name = route.axis_name
  total = batch if axis_name is None else batch * jax.lax.axis_size(axis_name)
  index = jax.vmap(lambda key: jax.random.permutation(key, total), out_axes=1)(
    jax.random.split(key, num_modalities)
  )
  if route.ring:
    index = jax.lax.dynamic_slice_in_dim(index, local.first, batch)
    keys = _pick_from_ring(local, index, axis_name)
  else:
    # Gathered once: whoever has all instances can make all tuples.
    keys = _pick(whole_batch(local, axis_name), index)._replace(first=0)
    route = Route(route.block_size)
  terms = functools.partial(_shuffled_terms, **options)
  return sum_over_keys(terms, anchors, keys, route)


def _pick(side: Side, index: jax.Array) -> Side:
  """Returns tuples: values `[tuple, modality, dim]`, the rest without dim."""
  return Side(
    jnp.stack([side.values[rows, m] for m, rows in enumerate(index.T)], axis=1),
    side.first,
    _identities(side)[index],
    None if side.where is None else side.where[index, 0],
  )


def _pick_from_ring(side: Side, index: jax.Array, axis_name: Any) -> Side:
  """Picks from the instances of all devices while they pass by."""
  batch, devices = side.values.shape[0], jax.lax.axis_size(axis_name)
  picked = _pick(side, jnp.clip(index - side.first, 0, batch - 1))

  def pick(carry: tuple[Side, Side], _: None) -> tuple[tuple[Side, Side], None]:
    passing, picked = carry
    passing = pass_on(passing, axis_name)
    row = index - passing.first
    here = (row >= 0) & (row < batch)
    new = _pick(passing, jnp.clip(row, 0, batch - 1))
    chosen = jax.tree.map(
      lambda a, b: jnp.where(
        here.reshape(here.shape + (1,) * (a.ndim - 2)), a, b
      ),
      new._replace(first=None),  # type: ignore[arg-type]
      picked._replace(first=None),  # type: ignore[arg-type]
    )
    return (passing, chosen._replace(first=side.first)), None

  (_, picked), _ = jax.lax.scan(pick, (side, picked), length=devices - 1)
  return picked


def _shuffled_terms(
  queries: Side,
  keys: Side,
  *,
  target: Target,
  precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, Any]:
  products = jnp.stack(
    [_product(keys.values, rest) for rest in _others(keys.values.shape[1])]
  )
  logits = jnp.einsum(
    "bnd,nBd->nbB", queries.values, products, precision=precision
  )
  same = queries.ids[None, :, None] == keys.ids.T[:, None, :]
  lose = ~_of_all_others(same)
  if queries.where is not None and keys.where is not None:
    exists = _of_all_others(keys.where.T)[:, None, :]
    lose = lose & exists & queries.where.T[:, :, None]
  return of_candidates(logits, lose, None, target)


def _of_all_others(marks: jax.Array) -> jax.Array:
  """Returns `[modality, ...]`, whether all the other modalities are marked."""
  return jnp.stack(
    [
      functools.reduce(operator.and_, (marks[n] for n in rest))
      for rest in _others(len(marks))
    ]
  )


# All: the digits of a tuple's number, in base batch, are its members.


def _over_all(
  anchors: Side, local: Side, route: Route, options: dict[str, Any]
) -> Sums:
  if route.ring:
    raise ValueError(
      "`ring=True` cannot be combined with `negatives='all'`, whose tuples "
      "need the instances of all devices at once; leave `ring` out, or use "
      "negatives='shuffled'."
    )
  everyone = whole_batch(local, route.axis_name)
  batch, num_modalities, _ = everyone.values.shape
  num_tuples = batch ** (num_modalities - 1)
  limit = _MOST_AT_ONCE if route.block_size is None else 2**31 - 1
  if num_tuples > limit:
    raise ValueError(
      f"`negatives='all'` means batch^(modalities - 1) = {batch}^"
      f"{num_modalities - 1} = {num_tuples} tuples, more than {limit}; give "
      "`block_size` (below 2^31 tuples), or use negatives='shuffled'."
    )
  return sum_over_keys(
    functools.partial(_all_terms, **options),
    Side(
      (anchors.values, everyone.values),
      anchors.first,
      (anchors.ids, _identities(everyone), everyone.where),
      anchors.where,
    ),
    Side((), 0, jnp.arange(num_tuples, dtype=jnp.int32)),
    Route(route.block_size),
  )


def _all_terms(
  queries: Side,
  keys: Side,
  *,
  target: Target,
  precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, Any]:
  anchors, everyone = queries.values
  ids, all_ids, complete = queries.ids
  batch, num_modalities, _ = everyone.shape
  members = [
    keys.ids // batch**place % batch for place in range(num_modalities - 1)
  ]
  products = jnp.stack(
    [
      functools.reduce(
        operator.mul, (everyone[i, n] for i, n in zip(members, rest))
      )
      for rest in _others(num_modalities)
    ]
  )
  logits = jnp.einsum("bnd,nBd->nbB", anchors, products, precision=precision)
  lose = ~functools.reduce(
    operator.and_, (ids[:, None] == all_ids[i][None] for i in members)
  )
  if complete is not None and queries.where is not None:
    exists = functools.reduce(operator.and_, (complete[i, 0] for i in members))
    lose = lose & exists[None] & queries.where
  return of_candidates(logits, lose[None], None, target)
