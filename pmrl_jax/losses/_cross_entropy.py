"""Cross-entropy of a positive against its negatives.

Van den Oord, Li, Vinyals, Representation Learning with Contrastive Predictive
Coding, arXiv 1807.03748.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from pmrl_jax.losses._sums import Sums, lowest

Positives = Literal["own", "ids"]


class Target(NamedTuple):
  """What the softmax over candidates should be."""

  label_smoothing: float = 0.0  # share that is spread over all candidates
  positives: Positives = "own"


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


def _selected(
  mask: jax.Array, logits: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the logits under a mask, and the mask as numbers to count."""
  return jnp.where(mask, logits, 0), jnp.broadcast_to(
    mask, logits.shape
  ).astype(logits.dtype)
