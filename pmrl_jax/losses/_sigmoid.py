"""One decision for each pair of instances: do they match?

Zhai, Mustafa, Kolesnikov, Beyer, Sigmoid Loss for Language Image Pre-Training,
arXiv 2303.15343.
"""

import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_choice,
  check_contrast,
  check_embeddings,
  check_scalar,
)
from pmrl_jax.losses._cross_entropy import Positives
from pmrl_jax.losses._embeddings import as_arrays, prepare
from pmrl_jax.losses._negatives import first_place, sum_over_keys
from pmrl_jax.losses._sums import Route, Side, differ
from pmrl_jax.losses._tasks import (
  Pairs,
  Tasks,
  mean_over_tasks,
  modality_pairs,
  presence_of_pairs,
  products,
)


def sigmoid_contrastive_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  bias: ArrayLike,
  pairs: Pairs = "all",
  anchor: int = 0,
  positives: Positives = "own",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Decides for each pair of embeddings whether they match (SigLIP).

  With unit embeddings x and y of two modalities, temperature tau and bias b,
  for each instance i, with softplus(s) = log(1 + exp(s)):

      softplus(-(x_i . y_i / tau + b)) + sum_j softplus(x_i . y_j / tau + b)

  over the instances j that are negatives; averaged over all pairs of
  modalities or over those with an anchor. No softmax couples the negatives, so
  one way is enough: each comparison counts once, for the instance of x, which
  is the earlier modality of a pair, or the anchor. The sum over j is no mean:
  the loss grows with the batch, as published.

  Differs from the authors' code: any number of modalities, of which any may
  be absent; instances with the same id are no negatives; and temperature and
  bias are arguments. They learn the bias from -10 on, so that at first every
  pair is a negative, as nearly all are, and the logarithm of 1 / temperature
  from log(10) on (see `bounded_temperature`). Training one of two encoders
  alone (SigLiT) needs no other loss.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    temperature: divides the cosines; a positive scalar.
    bias: added to every logit; a scalar.
    pairs: `"all"` pairs of modalities, or those with the `"anchor"`.
    anchor: index of the anchor modality; only read for `pairs="anchor"`.
    positives: `"own"`, the instance's own pair alone; or `"ids"`, also those
      with all instances of the same id, which count as much each.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. A pair takes
      part, as positive and as negative, if both of it are present.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether embeddings are divided by their length first.
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
    Zhai, Mustafa, Kolesnikov, Beyer, Sigmoid Loss for Language Image
    Pre-Training, arXiv 2303.15343.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import sigmoid_contrastive_loss
  >>> x = jnp.stack([jnp.eye(3)] * 2, axis=1)
  >>> loss = sigmoid_contrastive_loss(x, temperature=0.1, bias=-5.0)
  >>> [round(float(value), 5) for value in loss]  # 3 log(1 + exp(-5))
  [0.02015, 0.02015, 0.02015]
  """
  embeddings, where, ids = as_arrays(embeddings, where, ids)
  check_embeddings(embeddings, where)
  check_choice(positives, "positives", get_args(Positives))
  check_scalar(bias, "bias")
  route = Route(block_size, axis_name, ring)
  check_contrast(route, embeddings.shape[0], ids=ids, temperature=temperature)
  z, _ = prepare(embeddings, where, normalize)
  tasks = modality_pairs(embeddings.shape[1], pairs, anchor)
  present = presence_of_pairs(where, tasks)
  # Half of the temperature for each side, as an array of one kind.
  z = z * jnp.asarray(temperature, z.dtype) ** -0.5
  bias = jnp.broadcast_to(jnp.asarray(bias, z.dtype), z.shape[:1])
  first = first_place(z.shape[0], axis_name)
  own = jnp.stack(
    [jnp.sum(z[:, a] * z[:, b], axis=-1) + bias for a, b in tasks]
  )
  sums = sum_over_keys(
    functools.partial(
      _terms, tasks=tuple(tasks), positives=positives, precision=precision
    ),
    Side((z, bias), first, ids, present),
    Side(z, first, ids, present),
    route,
  )
  losses = (jax.nn.softplus(-own) + sums.of_terms).T
  if present is not None:
    losses = jnp.where(present, losses, 0)
  return mean_over_tasks(losses, present)


def _terms(
  queries: Side,
  keys: Side,
  *,
  tasks: Tasks,
  positives: Positives,
  precision: jax.lax.PrecisionLike,
) -> tuple[None, jax.Array]:
  """Losses of all decisions but those on the instances' own pairs."""
  z, bias = queries.values
  logits = products(z, keys.values, tasks, precision) + bias[None, :, None]
  negatives, alike = differ(queries, keys)
  losses = jnp.where(negatives, jax.nn.softplus(logits), 0)
  if positives == "ids" and alike is not None:
    losses = jnp.where(alike, jax.nn.softplus(-logits), losses)
  return None, losses
