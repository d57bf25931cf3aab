import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pmrl_jax.losses import instance_contrastive_loss

SHAPE = (9, 5)
EVERYWHERE = np.ones(9, bool)
ALL_DIFFER = np.arange(9, dtype=np.int32)


@jax.jit
def losses(u, temperature, where=EVERYWHERE, ids=ALL_DIFFER):
  return instance_contrastive_loss(
    u, temperature=temperature, where=where, ids=ids
  )


@jax.jit
def value_and_grad(u, temperature, where=EVERYWHERE, ids=ALL_DIFFER):
  def total(u):
    return jnp.sum(
      instance_contrastive_loss(
        u, temperature=temperature, where=where, ids=ids
      )
    )

  return jax.value_and_grad(total)(u)


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_loss_equals_the_oracle(rng, x64, oracle, temperature):
  u, where = rng.normal(size=SHAPE), rng.random(9) < 0.7
  ids = rng.integers(0, 4, 9, np.int32)
  z = oracle.unit(u)
  expected = oracle.contrast(z, z, where, ids, temperature, False)
  np.testing.assert_allclose(
    losses(u, temperature, where, ids), expected, rtol=1e-10, atol=1e-14
  )


def test_loss_without_normalisation_uses_products(rng, oracle):
  u = rng.normal(size=SHAPE)
  loss = instance_contrastive_loss(u, temperature=2.0, normalize=False)
  expected = oracle.contrast(u, u, EVERYWHERE, ALL_DIFFER, 2.0, False)
  np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_gradients_pass_check_grads(rng, x64):
  where = np.arange(9) != 3
  ids = np.array([0, 1, 2, 0, 3, 1, 4, 5, 6], np.int32)
  check_grads(
    lambda u, temperature: losses(u, temperature, where, ids),
    (rng.normal(size=SHAPE), 0.3),
    order=1,
    modes=("fwd", "rev"),
  )


def test_a_missing_instance_is_a_removed_one(rng, x64):
  u, where = rng.normal(size=SHAPE), np.arange(9) % 3 != 1
  masked = losses(u, 0.2, where)
  removed = instance_contrastive_loss(u[where], temperature=0.2)
  np.testing.assert_allclose(masked[where], removed, rtol=1e-12)
  assert np.all(masked[~where] == 0)


def test_content_of_a_missing_instance_never_matters(rng):
  u, where = rng.normal(size=SHAPE).astype(np.float32), np.arange(9) % 4 != 2
  expected = value_and_grad(u, 0.2, where)
  for content in (np.nan, np.inf, 7.0):
    dirty = np.where(where[:, None], u, np.float32(content))
    chex.assert_trees_all_equal(value_and_grad(dirty, 0.2, where), expected)
  assert np.all(np.asarray(expected[1])[~where] == 0)


def test_same_ids_are_no_negatives(rng, x64):
  u = rng.normal(size=SHAPE)
  ids = ALL_DIFFER.copy()
  ids[[2, 5]] = ids[0]
  without = EVERYWHERE.copy()
  without[[2, 5]] = False
  same, removed = losses(u, 0.2, ids=ids), losses(u, 0.2, without)
  np.testing.assert_allclose(same[0], removed[0], rtol=1e-12)
  assert same[1] > removed[1]


@pytest.mark.parametrize(
  "only",
  [
    {"where": ALL_DIFFER == 4},
    {"where": ALL_DIFFER < 0},
    {"ids": np.zeros(9, np.int32)},
  ],
)
def test_no_negatives_give_exactly_zero_loss_and_gradient(rng, only):
  value, gradient = value_and_grad(
    rng.normal(size=SHAPE).astype(np.float32), 0.1, **only
  )
  assert value == 0
  assert np.all(gradient == 0)


def test_losses_below_the_rounding_of_the_logits_are_kept():
  loss = instance_contrastive_loss(jnp.eye(9), temperature=0.05)
  # Logits are 20 and 0; float32 resolves 20 only to 2e-6.
  np.testing.assert_allclose(loss, 8 * np.exp(-20.0), rtol=1e-5)


def test_tiny_temperatures_do_not_overflow(rng):
  u = rng.normal(size=SHAPE).astype(np.float32)
  u[1] = u[0]
  value, gradient = value_and_grad(u, 1e-4)
  assert np.isfinite(gradient).all()
  # Only the two equal ones compete: log 2 for each of them, up to rounding
  # of a cosine over the temperature.
  np.testing.assert_allclose(value, 2 * np.log(2), atol=5e-3)


def test_loss_is_invariant_to_batch_order(rng):
  u, order = rng.normal(size=SHAPE).astype(np.float32), rng.permutation(9)
  np.testing.assert_allclose(
    losses(u[order], 0.2), losses(u, 0.2)[order], rtol=1e-5
  )


def test_zero_directions_give_finite_gradients():
  value, gradient = value_and_grad(np.zeros(SHAPE, np.float32), 0.1)
  np.testing.assert_allclose(value, 9 * np.log(9), rtol=1e-6)
  assert np.all(gradient == 0)
