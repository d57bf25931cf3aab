"""Principled multimodal representation learning: the whole objective.

Liu, Xia, Ng, Chua, arXiv 2507.17343: the modalities of one instance should
span one direction (alignment), and that direction should differ from those of
other instances.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_choice,
  check_embeddings,
  check_ids,
  check_temperature,
)
from pmrl_jax.losses._contrastive import contrast as contrast_instances
from pmrl_jax.losses._contrastive import cross_entropy
from pmrl_jax.losses._embeddings import prepare
from pmrl_jax.losses._spectrum import (
  Orientation,
  Solver,
  Spectrum,
  spectrum_and_others,
  spectrum_of,
)

Contrast = Literal["directions", "modalities", "pairs"]

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
  where: jax.Array | None = None,
  solver: Solver = "svd",
  normalize: bool = True,
) -> jax.Array:
  """Makes the modalities of an instance agree on one direction.

  With the singular values sigma (see `singular_spectrum`) of the k present
  modalities and temperature tau:

      -log( exp(sigma_1 / tau) / sum_{i<=k} exp(sigma_i / tau) )

  between log(1 + (k-1) exp(-sqrt(k) / tau)), all equal, and log(k) or, for the
  consensus of opposed modalities, more.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    temperature: divides the singular values; a positive scalar.
    orientation: `"free"` (as published, blind to signs), `"lifted"` or
      `"consensus"`: which values take the place of sigma.
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
  z, where = prepare(embeddings, where, normalize)
  spectrum = spectrum_of(z, where, solver=solver, orientation=orientation)
  return _align(spectrum, where, temperature)


def pmrl_loss(
  embeddings: jax.Array,
  *,
  alignment_temperature: ArrayLike = 1.0,
  instance_temperature: ArrayLike = 0.1,
  instance_weight: ArrayLike = 1.0,
  orientation: Orientation = "consensus",
  contrast: Contrast = "modalities",
  solver: Solver = "svd",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
) -> PMRLLoss:
  """Aligns the modalities of an instance and tells instances apart.

      loss = mean alignment + instance_weight * mean instance term

  The alignment term is `alignment_loss`. The instance term is a cross-entropy
  over the batch whose `contrast` is between

  * `"directions"`: the instances' leading directions, as published (see
    `instance_contrastive_loss`); it only repels.
  * `"modalities"`: each modality's embedding and the leading direction of the
    instance's *other* present modalities; each must find the other among those
    of all instances. Linear in the number of modalities.
  * `"pairs"`: the embeddings of each pair of modalities, both ways; quadratic.

  An instance's term is the mean over its modalities (or pairs) that take part.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    alignment_temperature: divides singular values; a positive scalar.
    instance_temperature: divides cosines; a positive scalar.
    instance_weight: factor of the instance term.
    orientation: `"free"` (as published, blind to signs), `"lifted"` or
      `"consensus"`, see `singular_spectrum`.
    contrast: `"directions"`, `"modalities"` or `"pairs"`, see above.
    solver: `"svd"` or `"gram"`.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. An instance
      with a single modality has no alignment term, and is contrasted by its
      direction only.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether embeddings are divided by their length first.

  Returns:
    `PMRLLoss(loss [], alignment [], instance [], spectrum)`, float32 or wider;
    differentiate `loss`. A term that no instance has is 0.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a temperature is out of range.

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
  embeddings = jnp.asarray(embeddings)
  where = None if where is None else jnp.asarray(where)
  ids = None if ids is None else jnp.asarray(ids)
  check_embeddings(embeddings, where)
  check_ids(ids, embeddings.shape[0])
  check_temperature(alignment_temperature, "alignment_temperature")
  check_temperature(instance_temperature, "instance_temperature")
  check_choice(orientation, "orientation", get_args(Orientation))
  check_choice(contrast, "contrast", get_args(Contrast))
  check_choice(solver, "solver", get_args(Solver))

  z, where = prepare(embeddings, where, normalize)
  if contrast == "modalities":
    spectrum, others = spectrum_and_others(
      z, where, solver=solver, orientation=orientation
    )
    has_other = _num_present(where)[:, None] >= 2
    queries, keys, present = z, others, where & has_other
  else:
    spectrum = spectrum_of(z, where, solver=solver, orientation=orientation)
    if contrast == "directions":
      u = spectrum.leading_direction[:, None]
      queries, keys, present = u, u, jnp.any(where, axis=1, keepdims=True)
    else:
      queries, keys, present = _pairs(z, where)

  alignment = _mean(
    _align(spectrum, where, alignment_temperature), _num_present(where) >= 2
  )
  instance = _contrast_all(
    queries,
    keys,
    present,
    temperature=instance_temperature,
    ids=ids,
    both_ways=contrast != "directions",
  )
  weight = jnp.asarray(instance_weight, instance.dtype)
  return PMRLLoss(alignment + weight * instance, alignment, instance, spectrum)


def _align(
  spectrum: Spectrum, where: jax.Array, temperature: ArrayLike
) -> jax.Array:
  values = spectrum.singular_values
  logits = values / jnp.asarray(temperature, values.dtype)
  # k modalities have k singular values; an absent one gives no logit.
  index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1)
  takes_part = index < _num_present(where)[:, None]
  return cross_entropy(logits[:, 0], logits[:, 1:], takes_part[:, 1:], axis=1)


def _pairs(
  z: jax.Array, where: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns both ends `[batch, pair, dim]` of all pairs, and if both exist."""
  first, second = jnp.triu_indices(z.shape[1], k=1)
  return z[:, first], z[:, second], where[:, first] & where[:, second]


def _contrast_all(
  queries: jax.Array,
  keys: jax.Array,
  present: jax.Array,
  *,
  temperature: ArrayLike,
  ids: jax.Array | None,
  both_ways: bool,
) -> jax.Array:
  """Contrasts instances once per modality (or pair) and averages.

  Args:
    queries: `[batch, modality, dim]`.
    keys: `[batch, modality, dim]`.
    present: `[batch, modality]` bool, what takes part.
    temperature: divides the products.
    ids: `[batch]` integers or None.
    both_ways: whether keys must find queries, too.

  Returns:
    `[]`, the mean over instances of their mean over modalities.
  """

  def of_one_modality(query, key, exists):
    return contrast_instances(
      query,
      key,
      temperature=temperature,
      where=exists,
      ids=ids,
      both_ways=both_ways,
    )

  losses = jax.vmap(of_one_modality, in_axes=1, out_axes=1)(
    queries, keys, present
  )
  num_present = _num_present(present)
  per_instance = jnp.sum(losses, axis=1) / jnp.maximum(num_present, 1)
  return _mean(per_instance, num_present > 0)


def _num_present(where: jax.Array) -> jax.Array:
  return jnp.sum(where, axis=1, dtype=jnp.int32)


def _mean(losses: jax.Array, counts: jax.Array) -> jax.Array:
  total = jnp.sum(jnp.where(counts, losses, 0))
  return total / jnp.maximum(jnp.sum(counts, dtype=jnp.int32), 1)
