"""Does this text belong to that image? Hard negatives, and the cross-entropy.

Li et al., Align before Fuse, arXiv 2107.07651 (ALBEF). A cross-encoder is too
slow to compare all with all, so it sees each instance with its own partner and
with one that is easily mistaken for it.
"""

import numbers

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_candidates,
  check_matches,
  check_temperature,
)


def sample_hard_negatives(
  key: jax.Array,
  similarities: jax.Array,
  *,
  temperature: ArrayLike = 1.0,
  floor: float = 1e-4,
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  candidate_ids: jax.Array | None = None,
) -> jax.Array:
  """Draws one negative for each query, the likelier the more alike it is.

  With similarities s, temperature tau and a floor f, the candidate j of query
  i, unless it is the query's own, is drawn with a probability proportional to

      softmax_j(s_ij / tau) + f

  where the softmax is over all candidates, the own one included, as published.
  The floor keeps every candidate possible. With 10,000 candidates, that of
  1e-4 weighs as much as the softmax.

  Differs from the authors' code: all candidates with the query's id are its
  own, where ALBEF, BLIP, VAST, GRAM and PMRL may draw another caption of the
  same image as a negative; draws depend on an explicit key alone; and all rows
  are drawn at once, under `jax.jit` as well, where they loop over them.
  No gradient passes, as in theirs.

  Args:
    key: a random key, `jax.random.key(...)`.
    similarities: `[query, candidate]`, any floating dtype.
    temperature: divides the similarities; a positive scalar.
    floor: added to the probabilities; not negative. Published: 1e-4.
    where: `[candidate]` bool, which candidates exist; None: all. The
      similarities of the others, NaN included, never matter.
    ids: `[query]` integers, None: all differ.
    candidate_ids: `[candidate]` integers. None: candidates are the partners of
      the queries, in their order, so that the own one has the same index (or
      the same id). Needed where there are more candidates than queries, as
      when those of other devices are gathered.

  Returns:
    `[query]` int32 indices of candidates; -1 where no candidate is left. An
    index of -1 would pick the last one: leave such queries out with
    `matching_loss(..., where=indices >= 0)`.

  Raises:
    TypeError: if a dtype is not floating (similarities), bool (where) or
      integer (ids).
    ValueError: if a shape or a number is out of range.

  Reference:
    Li et al., Align before Fuse: Vision and Language Representation Learning
    with Momentum Distillation, arXiv 2107.07651.

  >>> import jax
  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import sample_hard_negatives
  >>> similarities = jnp.array([[9.0, 8.0, -9.0], [8.0, 9.0, -9.0]])
  >>> sample_hard_negatives(
  ...   jax.random.key(0),
  ...   similarities,
  ...   floor=0.0,
  ...   ids=jnp.array([7, 5]),
  ...   candidate_ids=jnp.array([7, 5, 5]),
  ... ).tolist()
  [1, 0]
  """
  similarities = jnp.asarray(similarities)
  where, ids, candidate_ids = (
    None if x is None else jnp.asarray(x) for x in (where, ids, candidate_ids)
  )
  check_candidates(similarities, where, ids, candidate_ids)
  check_temperature(temperature)
  if not isinstance(floor, numbers.Real) or not float(floor) >= 0:
    raise ValueError(
      f"`floor` must be a number that is not negative, got {floor!r}; "
      "published is 1e-4."
    )
  s = jax.lax.stop_gradient(similarities)
  s = s.astype(jnp.promote_types(s.dtype, jnp.float32))
  exists = (
    jnp.ones(s.shape, bool)
    if where is None
    else jnp.broadcast_to(where[None], s.shape)
  )
  if candidate_ids is None:
    candidate_ids = ids
    own = jnp.eye(s.shape[0], dtype=bool)
  else:
    own = jnp.zeros(s.shape, bool)
  if ids is not None and candidate_ids is not None:
    own = own | (ids[:, None] == candidate_ids[None])
  logits = jnp.where(exists, s / jnp.asarray(temperature, s.dtype), -jnp.inf)
  # Sums of logarithms, which do not underflow when there is no floor.
  weights = jnp.logaddexp(
    jax.nn.log_softmax(logits, axis=1), jnp.log(jnp.asarray(floor, s.dtype))
  )
  possible = exists & ~own
  drawn = jax.random.categorical(
    key, jnp.where(possible, weights, -jnp.inf), axis=1
  )
  return jnp.where(jnp.any(possible, axis=1), drawn, -1).astype(jnp.int32)


def matching_loss(
  logits: jax.Array, matched: jax.Array, *, where: jax.Array | None = None
) -> jax.Array:
  """Cross-entropy of the decision whether two inputs belong together.

  With the logits (l_0, l_1) of "no" and "yes":

      log(1 + exp(l_0 - l_1))  where matched, else  log(1 + exp(l_1 - l_0))

  Differs from ALBEF, BLIP, VAST, GRAM and PMRL only in what it returns: the
  losses before their mean, in float32 whatever comes in. There, a batch holds
  each instance once with its own partner and twice with a negative
  (`sample_hard_negatives`, once for either side).

  Args:
    logits: `[..., 2]`, any floating dtype, of no and yes.
    matched: `[...]` bool, what is true.
    where: `[...]` bool, which pairs exist; None: all. The logits of the
      others, NaN included, never matter.

  Returns:
    `[...]` losses, float32 or wider; 0 where `where` is False.

  Raises:
    TypeError: if a dtype is not floating (logits) or bool (the others).
    ValueError: if a shape is another one.

  Reference:
    Li et al., Align before Fuse: Vision and Language Representation Learning
    with Momentum Distillation, arXiv 2107.07651.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import matching_loss
  >>> logits = jnp.array([[0.0, 2.0], [0.0, 2.0]])
  >>> loss = matching_loss(logits, jnp.array([True, False]))
  >>> [round(float(value), 4) for value in loss]
  [0.1269, 2.1269]
  """
  logits, matched = jnp.asarray(logits), jnp.asarray(matched)
  where = None if where is None else jnp.asarray(where)
  check_matches(logits, matched, where)
  if where is not None:
    logits = jnp.where(where[..., None], logits, 0)
  logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
  yes = logits[..., 1] - logits[..., 0]
  losses = jax.nn.softplus(jnp.where(matched, -yes, yes))
  return losses if where is None else jnp.where(where, losses, 0)
