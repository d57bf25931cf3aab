"""Contrast of leading directions, and of pairs of modalities."""

from typing import Any, get_args

import jax
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_choice,
  check_contrast,
  check_directions,
  check_embeddings,
)
from pmrl_jax.losses._cross_entropy import Positives, Target
from pmrl_jax.losses._embeddings import as_arrays, prepare
from pmrl_jax.losses._sums import Route
from pmrl_jax.losses._tasks import (
  Pairs,
  contrast,
  mean_over_tasks,
  modality_pairs,
  presence_of_pairs,
)


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
  directions, where, ids = as_arrays(directions, where, ids)
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
  embeddings, where, ids = as_arrays(embeddings, where, ids)
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
