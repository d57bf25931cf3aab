import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pmrl_jax.losses import matching_loss, sample_hard_negatives

DRAWS = 20_000
DIFFERENT = np.arange(3)


def frequencies(similarities, **options):
  """Shares `[query, candidate]` of many draws; column -1 counts none."""
  keys = jax.random.split(jax.random.key(0), DRAWS)
  drawn = np.asarray(
    jax.jit(
      jax.vmap(lambda key: sample_hard_negatives(key, similarities, **options))
    )(keys)
  )
  num_candidates = similarities.shape[1]
  return np.stack(
    [(drawn == n).mean(0) for n in [*range(num_candidates), -1]], axis=1
  )


def expected(similarities, own, exists, temperature, floor):
  """Published weights, row by row; None left: the last column."""
  shares = np.zeros((len(similarities), len(exists) + 1))
  for i, row in enumerate(similarities.astype(float)):
    weights = np.zeros(len(exists))
    e = np.exp((row[exists] - row[exists].max()) / temperature)
    weights[exists] = e / e.sum() + floor
    weights[own[i]] = 0
    total = weights.sum()
    shares[i, :-1] = weights / total if total else 0
    shares[i, -1] = not total
  return shares


def assert_shares(actual, wanted):
  # Five standard deviations of the mean of so many draws.
  bound = 5 * np.sqrt(wanted * (1 - wanted) / DRAWS) + 1e-9
  assert np.all(np.abs(actual - wanted) <= bound)
  # What cannot be drawn never is.
  assert np.all(actual[wanted == 0] == 0)


@pytest.mark.parametrize("floor", [1e-4, 0.3])
def test_negatives_are_drawn_as_published(rng, floor):
  s = rng.normal(size=(4, 4)).astype(np.float32)
  shares = frequencies(jnp.asarray(s), temperature=0.5, floor=floor)
  own, exists = np.eye(4, dtype=bool), np.ones(4, bool)
  assert_shares(shares, expected(s, own, exists, 0.5, floor))


def test_own_ids_and_absent_candidates_are_never_drawn(rng):
  s = rng.normal(size=(4, 6)).astype(np.float32)
  ids, candidate_ids = np.array([3, 1, 1, 2]), np.array([1, 1, 2, 3, 9, 1])
  exists = np.array([True, True, True, True, False, True])
  shares = frequencies(
    jnp.asarray(np.where(exists, s, np.nan)),
    where=exists,
    ids=ids,
    candidate_ids=candidate_ids,
  )
  own = ids[:, None] == candidate_ids
  assert_shares(shares, expected(s, own, exists, 1.0, 1e-4))


def test_candidates_are_by_default_the_partners_of_the_queries(rng):
  s, ids = rng.normal(size=(4, 4)).astype(np.float32), np.array([5, 6, 5, 7])
  own = (ids[:, None] == ids) | np.eye(4, dtype=bool)
  shares = frequencies(jnp.asarray(s), ids=ids)
  assert_shares(shares, expected(s, own, np.ones(4, bool), 1.0, 1e-4))


def test_none_is_drawn_where_none_is_left():
  draw = jax.jit(sample_hard_negatives)
  s, key, everyone = jnp.zeros((3, 3)), jax.random.key(0), jnp.ones(3, bool)

  def drawn(s=s, where=everyone, ids=DIFFERENT):
    return draw(key, s, where=where, ids=ids).tolist()

  assert drawn(ids=jnp.ones(3, int)) == [-1, -1, -1]
  assert drawn(s * jnp.nan, ~everyone) == [-1, -1, -1]
  assert drawn(where=jnp.array([True, False, False])) == [-1, 0, 0]


def test_hopeless_candidates_are_drawn_without_a_floor():
  """Where the own one takes all of the softmax, the others still compete."""
  s = jnp.array([[0.0, -900.0, -901.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
  shares = frequencies(s, floor=0.0)
  e = np.exp(-1)
  np.testing.assert_allclose(
    shares[0], [0, 1 / (1 + e), e / (1 + e), 0], atol=0.02
  )


def test_no_gradient_passes_through_the_draw(rng):
  def loss(s, key):
    negatives = sample_hard_negatives(key, s)
    return jnp.sum(jnp.take_along_axis(s, negatives[:, None], axis=1))

  s = rng.normal(size=(4, 4)).astype(np.float32)
  gradient = jax.jit(jax.grad(loss))(s, jax.random.key(1))
  assert np.all(np.sort(gradient, axis=1) == [0, 0, 0, 1])


@pytest.mark.parametrize("shape", [(6,), (2, 3), ()])
def test_matching_loss_equals_the_oracle(rng, x64, shape):
  logits, matched = 9 * rng.normal(size=(*shape, 2)), rng.random(shape) < 0.5
  where = rng.random(shape) < 0.8
  wanted = np.zeros(shape)
  for place in np.ndindex(shape):
    e = np.exp(logits[place])
    if where[place]:
      wanted[place] = -np.log(e[int(matched[place])] / e.sum())
  actual = matching_loss(logits, matched, where=where)
  np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-14)


def test_gradients_of_matching_pass_check_grads(rng, x64):
  matched = np.arange(5) % 2 == 0
  check_grads(
    jax.jit(lambda x: matching_loss(x, matched, where=np.arange(5) != 1)),
    (rng.normal(size=(5, 2)),),
    order=1,
  )


def test_content_of_absent_pairs_never_matters(rng):
  logits = rng.normal(size=(5, 2)).astype(np.float32)
  matched, where = np.arange(5) < 3, np.arange(5) != 2

  @jax.jit
  def value_and_grad(logits):
    return jax.value_and_grad(
      lambda logits: jnp.sum(matching_loss(logits, matched, where=where))
    )(logits)

  expected = value_and_grad(logits)
  dirty = np.where(where[:, None], logits, np.float32(np.nan))
  chex.assert_trees_all_equal(value_and_grad(dirty), expected)
  assert np.all(np.asarray(expected[1])[2] == 0)


def test_half_precision_is_computed_in_float32(rng):
  logits = jnp.asarray(rng.normal(size=(5, 2)), jnp.bfloat16)
  loss = matching_loss(logits, jnp.ones(5, bool))
  assert loss.dtype == jnp.float32
  full = matching_loss(logits.astype(jnp.float32), jnp.ones(5, bool))
  chex.assert_trees_all_equal(loss, full)
  s = jnp.asarray(rng.normal(size=(5, 5)), jnp.bfloat16)
  assert sample_hard_negatives(jax.random.key(0), s).dtype == jnp.int32


def test_confident_logits_give_finite_losses():
  logits = jnp.array([[500.0, -500.0], [-500.0, 500.0]])
  loss = matching_loss(logits, jnp.array([True, True]))
  np.testing.assert_allclose(loss, [1000, 0])


@pytest.mark.parametrize(
  "options,message",
  [
    ({"temperature": 0.0}, "`temperature` must be positive"),
    ({"floor": -1.0}, "`floor` must be a number that is not negative, got -1"),
    ({"where": jnp.ones(4, bool)}, r"\[candidate\] = \(3,\), got \(4,\)"),
    ({"ids": jnp.ones(4, int)}, r"`ids` .* \[query\] = \(3,\), got \(4,\)"),
    ({"candidate_ids": jnp.ones(3, int)}, "`ids` .query., got None"),
  ],
)
def test_bad_options_of_negatives(options, message):
  with pytest.raises(ValueError, match=message):
    sample_hard_negatives(jax.random.key(0), jnp.ones((3, 3)), **options)


def test_bad_similarities():
  key = jax.random.key(0)
  with pytest.raises(ValueError, match=r"\[query, candidate\], got \(3,\)"):
    sample_hard_negatives(key, jnp.ones(3))
  with pytest.raises(TypeError, match="floating-point .* got dtype int32"):
    sample_hard_negatives(key, jnp.ones((3, 3), jnp.int32))
  with pytest.raises(
    ValueError, match=r"must be square, .* got shape \(3, 4\)"
  ):
    sample_hard_negatives(key, jnp.ones((3, 4)))
  with pytest.raises(TypeError, match="`candidate_ids` must be integers"):
    sample_hard_negatives(
      key, jnp.ones((3, 3)), ids=jnp.ones(3, int), candidate_ids=jnp.ones(3)
    )


def test_bad_matches():
  matched = jnp.ones(3, bool)
  with pytest.raises(ValueError, match=r"\[..., 2\], .* got \(3, 3\)"):
    matching_loss(jnp.ones((3, 3)), matched)
  with pytest.raises(TypeError, match="floating-point .* got dtype int32"):
    matching_loss(jnp.ones((3, 2), jnp.int32), matched)
  with pytest.raises(TypeError, match="`matched` must be bool .* int32"):
    matching_loss(jnp.ones((3, 2)), jnp.ones(3, jnp.int32))
  with pytest.raises(ValueError, match=r"`where` .* = \(3,\), got \(2,\)"):
    matching_loss(jnp.ones((3, 2)), matched, where=jnp.ones(2, bool))
