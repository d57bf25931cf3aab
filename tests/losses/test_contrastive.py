import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pmrl_jax.losses import instance_contrastive_loss


@pytest.mark.parametrize("temperature", [0.02, 0.1, 1.0])
def test_loss_equals_the_oracle(rng, x64, oracle, temperature):
  u, where = rng.normal(size=(9, 5)), rng.random(9) < 0.7
  ids = rng.integers(0, 4, 9)
  loss = instance_contrastive_loss(
    u, temperature=temperature, where=where, ids=ids
  )
  z = oracle.unit(u)
  expected = oracle.contrast(z, z, where, ids, temperature, False)
  np.testing.assert_allclose(loss, expected, rtol=1e-10, atol=1e-14)


def test_loss_without_normalisation_uses_products(rng, x64, oracle):
  u = rng.normal(size=(6, 4))
  loss = instance_contrastive_loss(u, temperature=2.0, normalize=False)
  everywhere, ids = np.ones(6, bool), np.arange(6)
  expected = oracle.contrast(u, u, everywhere, ids, 2.0, False)
  np.testing.assert_allclose(loss, expected, rtol=1e-10)


def test_gradients_equal_finite_differences(rng, x64):
  where = np.array([True, True, False, True, True])
  ids = np.array([0, 1, 2, 0, 3])

  def loss(u, temperature):
    return instance_contrastive_loss(
      u, temperature=temperature, where=where, ids=ids
    )

  u, temperature = rng.normal(size=(5, 4)), jnp.asarray(0.3)
  check_grads(loss, (u, temperature), order=1, modes=("fwd", "rev"))


def test_a_missing_instance_is_a_removed_one(rng, x64):
  u, where = rng.normal(size=(7, 4)), np.arange(7) % 3 != 1
  masked = instance_contrastive_loss(u, temperature=0.2, where=where)
  removed = instance_contrastive_loss(u[where], temperature=0.2)
  np.testing.assert_allclose(masked[where], removed, rtol=1e-12)
  assert np.all(masked[~where] == 0)


def test_content_of_a_missing_instance_never_matters(rng):
  u = rng.normal(size=(6, 4)).astype(np.float32)
  where = np.array([True, True, False, True, False, True])

  def total(u):
    return jnp.sum(instance_contrastive_loss(u, temperature=0.2, where=where))

  expected = jax.value_and_grad(total)(u)
  for content in (np.nan, np.inf, 7.0):
    dirty = np.where(where[:, None], u, np.float32(content))
    chex.assert_trees_all_equal(jax.value_and_grad(total)(dirty), expected)
  assert np.all(np.asarray(expected[1])[~where] == 0)


def test_same_ids_are_no_negatives(rng, x64):
  u = rng.normal(size=(4, 3))
  loss = instance_contrastive_loss(
    u, temperature=0.2, ids=np.array([5, 9, 5, 9])
  )
  without_2 = instance_contrastive_loss(
    u, temperature=0.2, where=np.array([True, True, False, True])
  )
  np.testing.assert_allclose(loss[0], without_2[0], rtol=1e-12)


@pytest.mark.parametrize(
  "only",
  [
    {"where": np.array([False, True, False])},
    {"where": np.zeros(3, bool)},
    {"ids": np.zeros(3, np.int32)},
  ],
)
def test_no_negatives_give_exactly_zero_loss_and_gradient(rng, only):
  u = rng.normal(size=(3, 4)).astype(np.float32)

  def total(u):
    return jnp.sum(instance_contrastive_loss(u, temperature=0.1, **only))

  value, gradient = jax.value_and_grad(total)(u)
  assert value == 0
  assert np.all(gradient == 0)


def test_losses_below_the_rounding_of_the_logits_are_kept():
  loss = instance_contrastive_loss(jnp.eye(3), temperature=0.05)
  # Logits are 20 and 0; float32 resolves 20 only to 2e-6.
  np.testing.assert_allclose(loss, 2 * np.exp(-20.0), rtol=1e-5)


def test_tiny_temperatures_do_not_overflow(rng):
  u = rng.normal(size=(5, 4)).astype(np.float32)

  def total(u):
    return jnp.sum(instance_contrastive_loss(u, temperature=1e-4))

  value, gradient = jax.value_and_grad(total)(u)
  chex.assert_tree_all_finite((value, gradient))
  duplicated = jnp.concatenate([u, u])
  np.testing.assert_allclose(total(duplicated), 10 * np.log(2), rtol=1e-2)


def test_loss_is_invariant_to_batch_order(rng, x64):
  u, order = rng.normal(size=(6, 4)), rng.permutation(6)
  loss = instance_contrastive_loss(u, temperature=0.2)
  permuted = instance_contrastive_loss(u[order], temperature=0.2)
  np.testing.assert_allclose(permuted, loss[order], rtol=1e-12)


def test_zero_directions_give_finite_gradients():
  def total(u):
    return jnp.sum(instance_contrastive_loss(u, temperature=0.1))

  value, gradient = jax.value_and_grad(total)(jnp.zeros((4, 3)))
  np.testing.assert_allclose(value, 4 * np.log(4), rtol=1e-6)
  assert np.all(gradient == 0)
