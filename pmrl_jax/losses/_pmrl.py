"""Principled multimodal representation learning: the whole objective.

Liu, Xia, Ng, Chua, arXiv 2507.17343: the modalities of one instance should
span one direction (alignment), and that direction should differ from those of
other instances.
"""

import functools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_choice,
  check_contrast,
  check_embeddings,
  check_sample_weights,
  check_temperature,
)
from pmrl_jax.losses._cross_entropy import Target, cross_entropy
from pmrl_jax.losses._embeddings import as_arrays, prepare, unit
from pmrl_jax.losses._spectrum import (
  Orientation,
  Solver,
  Spectrum,
  spectrum_and_others,
  spectrum_of,
)
from pmrl_jax.losses._sums import Route
from pmrl_jax.losses._tasks import (
  Tasks,
  mean_over_tasks,
  modality_pairs,
  presence_of_pairs,
)
from pmrl_jax.losses._tasks import contrast as contrast_instances

Contrast = Literal["directions", "modalities", "pairs"]
Power = Literal[1, 2]

# The objective exactly as published: `pmrl_loss(embeddings, **PUBLISHED)`.
PUBLISHED: Mapping[str, Any] = MappingProxyType(
  {
    "orientation": "free",
    "contrast": "directions",
    "alignment_temperature": 0.05,
    "instance_temperature": 0.1,
    "instance_weight": 1.0,
  }
)


class PMRLLoss(NamedTuple):
  """The objective, its two terms and the spectrum they came from."""

  loss: jax.Array  # [], alignment + instance_weight * instance
  alignment: jax.Array  # [], mean over instances with two modalities or more
  instance: jax.Array  # [], mean over instances that are contrasted
  spectrum: Spectrum  # singular values, leading direction, modality weights


def alignment_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  orientation: Orientation = "consensus",
  power: Power = 1,
  where: jax.Array | None = None,
  solver: Solver = "svd",
  normalize: bool = True,
) -> jax.Array:
  """Makes the modalities of an instance agree on one direction.

  With the singular values sigma (see `singular_spectrum`) of the k present
  modalities and temperature tau:

      -log( exp(sigma_1 / tau) / sum_{i<=k} exp(sigma_i / tau) )

  (or with sigma_i^2, the eigenvalues of the Gram matrix, for `power=2`),
  between log(1 + (k-1) exp(-sqrt(k) / tau)), all equal, and log(k) or, for the
  consensus of opposed modalities, more.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    temperature: divides the singular values; a positive scalar.
    orientation: `"free"` (as published, blind to signs), `"lifted"` or
      `"consensus"`: which values take the place of sigma.
    power: 1 (as published) or 2, the exponent of sigma in the logits.
    where: `[batch, modality]` bool, which modalities are present; None: all.
    solver: `"svd"` or `"gram"`.
    normalize: whether embeddings are divided by their length first.

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance with fewer than two
    present modalities.

  Raises:
    TypeError: if `embeddings` is not floating or `where` not bool.
    ValueError: if a shape, a choice or the temperature is out of range.

  Reference:
    Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning,
    arXiv 2507.17343.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import alignment_loss
  >>> orthogonal, alike = [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]
  >>> loss = alignment_loss(jnp.array([orthogonal, alike]), temperature=0.5)
  >>> [round(float(value), 4) for value in loss]
  [0.6931, 0.0574]
  """
  embeddings = jnp.asarray(embeddings)
  where = None if where is None else jnp.asarray(where)
  check_embeddings(embeddings, where)
  check_temperature(temperature)
  check_choice(orientation, "orientation", get_args(Orientation))
  check_choice(solver, "solver", get_args(Solver))
  check_choice(power, "power", get_args(Power))
  x, where = prepare(embeddings, where, normalize=False)
  spectrum = spectrum_of(
    x, where, solver=solver, orientation=orientation, normalize=normalize
  )
  return _align(spectrum, where, temperature, power)


def pmrl_loss(
  embeddings: jax.Array,
  *,
  alignment_temperature: ArrayLike = 1.0,
  instance_temperature: ArrayLike = 0.1,
  instance_weight: ArrayLike = 3.0,
  orientation: Orientation = "consensus",
  contrast: Contrast = "pairs",
  power: Power = 1,
  solver: Solver = "svd",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  sample_weights: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> PMRLLoss:
  """Aligns the modalities of an instance and tells instances apart.

      loss = mean alignment + instance_weight * mean instance term

  The alignment term is `alignment_loss`. The instance term is a cross-entropy
  over the batch whose `contrast` is between

  * `"directions"`: the instances' leading directions, as published (see
    `instance_contrastive_loss`); it only repels.
  * `"pairs"`: the embeddings of each pair of modalities, both ways (see
    `pairwise_contrastive_loss`); quadratic in the number of modalities.
  * `"modalities"`: what all modalities of an instance but one agree on, and
    the embeddings of that one: it must find its own among those of all
    instances. What k modalities agree on is Z^T w / sqrt(k), their leading
    direction shortened from 1 (wholly) to 0 (not at all); for the consensus
    their mean. Its product with an embedding z then is, up to a constant of the
    instance and a factor, the squared consensus value ||sum_m z_m||^2 / (k + 1)
    of the stack with z swapped in: the instance whose modality fits best must
    be the instance itself. Linear in the number of modalities: for many of
    them, where pairs would cost too much.

  An instance's term is the mean over its modalities (or pairs) that take part.

  Negatives are the other instances of the whole batch, however it is split
  over devices. Under `jax.jit` with a sharded batch nothing need be said.
  Inside `jax.shard_map` or `jax.pmap` give `axis_name`; the loss is then that
  of the whole batch on every device, and the `jax.lax.pmean` of the gradient
  of (replicated) parameters is the gradient that one device would get.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    alignment_temperature: divides singular values; a positive scalar.
    instance_temperature: divides cosines; a positive scalar.
    instance_weight: factor of the instance term.
    orientation: `"free"` (as published, blind to signs), `"lifted"` or
      `"consensus"`, see `singular_spectrum`.
    contrast: `"directions"`, `"modalities"` or `"pairs"`, see above.
    power: 1 (as published) or 2: logits of the alignment term are singular
      values, or their squares.
    solver: `"svd"` or `"gram"`, which is faster; see `singular_spectrum`.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. An instance
      with a single modality has no alignment term, and is contrasted by its
      direction only.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    sample_weights: `[batch]` numbers, not negative: the weights of instances
      in both means. They do not change how an instance counts as a negative.
      None: all are 1.
    normalize: whether embeddings are divided by their length first.
    label_smoothing: share of the instance term's target, from 0 to below 1,
      that is spread evenly over the positive and its negatives.
    block_size: computes the logits of the instance term for so many keys at a
      time, and again in the backward pass, so that memory is O(batch x
      block_size) instead of O(batch^2); reverse mode only. None: all at once.
    axis_name: name of the mapped axis that the batch is split over; reverse
      mode only.
    ring: whether keys travel around `axis_name` instead of being gathered, so
      that no device ever holds those of the whole batch; reverse mode only.
    precision: of the instance term's products, as in `jnp.einsum`. Less than
      `"highest"` is faster on accelerators, and rounds a cosine c by up to
      0.004 c (bfloat16) before the temperature divides it.

  Returns:
    `PMRLLoss(loss [], alignment [], instance [], spectrum)`, float32 or wider;
    differentiate `loss`. A term that no instance has is 0.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a number is out of range.

  Reference:
    Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning,
    arXiv 2507.17343.

  >>> import jax
  >>> from pmrl_jax.losses import PUBLISHED, pmrl_loss
  >>> embeddings = jax.random.normal(jax.random.key(0), (8, 3, 16))
  >>> loss, alignment, instance, spectrum = jax.jit(pmrl_loss)(embeddings)
  >>> spectrum.leading_direction.shape
  (8, 16)
  >>> def published(x):
  ...   return pmrl_loss(x, **PUBLISHED).loss
  >>> jax.jit(jax.grad(published))(embeddings).shape
  (8, 3, 16)
  """
  embeddings, where, ids = as_arrays(embeddings, where, ids)
  if sample_weights is not None:
    sample_weights = jnp.asarray(sample_weights)
  check_embeddings(embeddings, where)
  check_sample_weights(sample_weights, embeddings.shape[0])
  check_temperature(alignment_temperature, "alignment_temperature")
  check_choice(orientation, "orientation", get_args(Orientation))
  check_choice(contrast, "contrast", get_args(Contrast))
  check_choice(power, "power", get_args(Power))
  check_choice(solver, "solver", get_args(Solver))
  route = Route(block_size, axis_name, ring)
  check_contrast(
    route,
    embeddings.shape[0],
    ids=ids,
    temperature=instance_temperature,
    label_smoothing=label_smoothing,
    name="instance_temperature",
  )

  x, present = prepare(embeddings, where, normalize=False)
  sides = _sides(x, present, where, contrast, orientation, solver, normalize)
  losses = contrast_instances(
    sides.queries,
    sides.keys,
    sides.tasks,
    temperature=instance_temperature,
    where=sides.where,
    ids=ids,
    both_ways=contrast == "pairs",
    target=Target(label_smoothing),
    route=route,
    precision=precision,
  )
  alignment = _align(sides.spectrum, present, alignment_temperature, power)
  instance = mean_over_tasks(losses, sides.where)
  alignment, instance = _means(
    [alignment, instance],
    [
      None if where is None else _num_present(where) >= 2,
      None if sides.where is None else jnp.any(sides.where, axis=1),
    ],
    sample_weights,
    axis_name,
  )
  weight = jnp.asarray(instance_weight, instance.dtype)
  return PMRLLoss(
    alignment + weight * instance, alignment, instance, sides.spectrum
  )


class _Sides(NamedTuple):
  """What the instance term compares, and the spectrum it came from."""

  spectrum: Spectrum
  queries: jax.Array  # [batch, query, dim]
  keys: jax.Array  # [batch, key, dim]
  tasks: Tasks  # which query with which key
  where: jax.Array | None  # [batch, task], None: everywhere


def _sides(
  x: jax.Array,
  present: jax.Array,
  where: jax.Array | None,
  contrast: Contrast,
  orientation: Orientation,
  solver: Solver,
  normalize: bool,
) -> _Sides:
  decompose = functools.partial(
    spectrum_of, solver=solver, orientation=orientation, normalize=normalize
  )
  if contrast == "directions":
    spectrum = decompose(x, present)
    u = spectrum.leading_direction[:, None]
    if where is not None:
      where = jnp.any(where, axis=1, keepdims=True)
    return _Sides(spectrum, u, u, [(0, 0)], where)
  z = unit(x) if normalize else x
  num_modalities = z.shape[1]
  if contrast == "pairs":
    spectrum = decompose(x, present)
    tasks = modality_pairs(num_modalities, "all", anchor=0)
    return _Sides(spectrum, z, z, tasks, presence_of_pairs(where, tasks))
  spectrum, others = spectrum_and_others(
    z, present, solver=solver, orientation=orientation
  )
  tasks = [(m, m) for m in range(num_modalities)]
  if where is not None:
    where = where & (_num_present(where)[:, None] >= 2)
  return _Sides(spectrum, others, z, tasks, where)


def _align(
  spectrum: Spectrum, where: jax.Array, temperature: ArrayLike, power: Power
) -> jax.Array:
  values = spectrum.singular_values**power
  logits = values / jnp.asarray(temperature, values.dtype)
  # k modalities have k singular values; an absent one gives no logit.
  index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  takes_part = index < _num_present(where)[:, None]
  return cross_entropy(logits[:, 0], logits[:, 1:], takes_part[:, 1:], axis=1)


def _num_present(where: jax.Array) -> jax.Array:
  return jnp.sum(where, axis=1, dtype=jnp.int32)


def _means(
  losses: list[jax.Array],
  counted: list[jax.Array | None],
  sample_weights: jax.Array | None,
  axis_name: Any,
) -> jax.Array:
  """Returns the mean of each loss over the instances of all devices.

  Args:
    losses: `[batch]` each.
    counted: `[batch]` bool each, the instances that have the loss; None: all.
    sample_weights: `[batch]`, or None.
    axis_name: of the devices that share the batch, or None.

  Returns:
    `[loss]`, 0 where no instance (of positive weight) counts.
  """
  ones = jnp.ones_like(losses[0])
  weights = ones if sample_weights is None else sample_weights
  rows = jnp.stack(
    [
      weights.astype(ones.dtype) * (1 if mask is None else mask)
      for mask in counted
    ]
  )
  # Selected, not multiplied: what does not count may be NaN.
  totals = jnp.where(rows > 0, rows * jnp.stack(losses), 0)
  # All sums in one, for a single collective.
  sums = jnp.sum(jnp.stack([totals, rows]), axis=-1)
  if axis_name is not None:
    sums = jax.lax.psum(sums, axis_name)
  total, count = sums
  return total / jnp.where(count > 0, count, 1)
