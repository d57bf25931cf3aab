"""Cross-entropy of a positive against its negatives.

Van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive
Coding, arXiv 1807.03748.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_directions,
  check_ids,
  check_temperature,
)
from pmrl_jax.losses._embeddings import prepare


def instance_contrastive_loss(
  directions: jax.Array,
  *,
  temperature: ArrayLike,
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
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

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance that does not exist.

  Raises:
    TypeError: if a dtype is not floating (directions), bool (where) or
      integer (ids).
    ValueError: if a shape is another one, or the temperature is not positive.

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
  check_ids(ids, directions.shape[0])
  check_temperature(temperature)
  u, where = prepare(directions, where, normalize)
  return contrast(u, u, temperature=temperature, where=where, ids=ids)


def contrast(
  queries: jax.Array,
  keys: jax.Array,
  *,
  temperature: ArrayLike,
  where: jax.Array,
  ids: jax.Array | None,
  both_ways: bool = False,
) -> jax.Array:
  """Tells the key of the same instance from the keys of all others.

  Args:
    queries: `[batch, dim]`.
    keys: `[batch, dim]`; query and key of one index are a positive pair.
    temperature: divides the products.
    where: `[batch]` bool, the instances whose query and key both exist.
    ids: `[batch]` integers, the same for instances that are no negatives.
    both_ways: whether each key must also find its query; the two are averaged.

  Returns:
    `[batch]` losses, 0 where `where` is False.
  """
  positives = _products("bd,bd->b", queries, keys, temperature)
  logits = _products("bd,Bd->bB", queries, keys, temperature)
  negatives = _are_negatives(where, ids)
  loss = cross_entropy(positives, logits, negatives, axis=1)
  if both_ways:
    loss = (loss + cross_entropy(positives, logits, negatives, axis=0)) / 2
  return jnp.where(where, loss, 0)


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
  # The lowest finite number, not -inf: a row without any negative then gives
  # softplus(lowest) = 0 with a zero gradient, where -inf would give NaN.
  lowest = jnp.finfo(logits.dtype).min
  losing = jax.nn.logsumexp(jnp.where(negatives, logits, lowest), axis=axis)
  # log(1 + e^x) keeps losses far below the rounding of the logits themselves.
  return jax.nn.softplus(losing - positives)


def _products(
  axes: str, queries: jax.Array, keys: jax.Array, temperature: ArrayLike
) -> jax.Array:
  # Accelerators round the factors of a product to bfloat16 or TF32 unless
  # told otherwise; divided by a small temperature that error would show.
  products = jnp.einsum(axes, queries, keys, precision="highest")
  return products / jnp.asarray(temperature, products.dtype)


def _are_negatives(where: jax.Array, ids: jax.Array | None) -> jax.Array:
  """Returns `[batch, batch]` bool: which pairs exist and differ."""
  if ids is None:
    different = ~jnp.eye(where.shape[0], dtype=bool)
  else:
    different = ids[:, None] != ids[None, :]
  return where[:, None] & where[None, :] & different
