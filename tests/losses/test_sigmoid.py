import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

from pmrl_jax.losses import sigmoid_contrastive_loss

BATCH, DIM = 7, 5
IDS = np.array([0, 1, 2, 0, 3, 1, 0], np.int32)
ALL_DIFFER = np.arange(BATCH, dtype=np.int32)


@functools.cache
def compiled(**options):
  def losses(x, where, ids, temperature, bias):
    return sigmoid_contrastive_loss(
      x,
      where=where,
      ids=ids,
      temperature=temperature,
      bias=bias,
      **options,
    )

  def value_and_pullback(x, where, ids, temperature, bias, cotangent):
    value, pullback = jax.vjp(
      lambda x, temperature, bias: losses(x, where, ids, temperature, bias),
      *(x, temperature, bias),
    )
    return value, pullback(cotangent)

  return jax.jit(value_and_pullback)


def run(
  x,
  where=None,
  ids=ALL_DIFFER,
  temperature=0.3,
  bias=-2.0,
  cotangent=None,
  **options,
):
  """Losses; gradients of their sum by embeddings, temperature and bias."""
  where = np.ones(x.shape[:2], bool) if where is None else where
  cotangent = np.ones(len(x), x.dtype) if cotangent is None else cotangent
  numbers = np.array([temperature, bias], x.dtype)
  return jax.device_get(compiled(**options)(x, where, ids, *numbers, cotangent))


def softplus(s):
  return np.log1p(np.exp(s))


def expected(oracle, x, where, ids, pairs, positives):
  z = oracle.unit(np.where(where[..., None], x, 0))
  losses, counts = np.zeros(len(x)), np.zeros(len(x))
  for a, b in pairs:
    both = where[:, a] & where[:, b]
    for i, j in itertools.product(np.flatnonzero(both), repeat=2):
      logit = z[i, a] @ z[j, b] / 0.3 - 2
      if i == j or (positives == "ids" and ids[i] == ids[j]):
        losses[i] += softplus(-logit)
      elif ids[i] != ids[j]:
        losses[i] += softplus(logit)
    counts += both
  return np.divide(losses, counts, where=counts > 0, out=losses)


@pytest.mark.parametrize(
  "num_modalities,pairs,options",
  [
    (2, [(0, 1)], {}),
    (3, [(0, 1), (0, 2), (1, 2)], {"positives": "ids"}),
    (4, [(3, 0), (3, 1), (3, 2)], {"pairs": "anchor", "anchor": -1}),
  ],
)
def test_losses_equal_the_oracle(
  rng, x64, oracle, num_modalities, pairs, options
):
  x = rng.normal(size=(BATCH, num_modalities, DIM))
  for share in (1.0, 0.7):
    where = rng.random(x.shape[:2]) < share
    np.testing.assert_allclose(
      run(x, where, IDS, **options)[0],
      expected(oracle, x, where, IDS, pairs, options.get("positives", "own")),
      rtol=1e-10,
    )


def test_gradients_pass_check_vjp(rng, x64):
  where = np.ones((BATCH, 3), bool)
  where[2, 1] = where[5, 0] = False

  def losses(x, temperature, bias, cotangent=None):
    return run(x, where, IDS, temperature, bias, cotangent, positives="ids")

  check_vjp(
    lambda *args: losses(*args)[0],
    lambda *args: (losses(*args)[0], lambda ct: losses(*args, ct)[1]),
    (rng.normal(size=(BATCH, 3, DIM)), np.float64(0.3), np.float64(-2)),
  )


def test_temperature_and_bias_learn_the_same_in_blocks(rng, x64):
  x = rng.normal(size=(BATCH, 3, DIM))
  dense = run(x, ids=IDS, positives="ids")
  blocks = run(x, ids=IDS, positives="ids", block_size=3)
  for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(dense)):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14)


def test_every_decision_counts_once_whichever_side_is_the_anchor(rng, x64):
  x = rng.normal(size=(BATCH, 2, DIM))
  one, other = (
    run(x, ids=IDS, pairs="anchor", anchor=anchor)[0] for anchor in (0, 1)
  )
  np.testing.assert_allclose(one.sum(), other.sum(), rtol=1e-12)
  assert not np.allclose(one, other)


def test_extreme_logits_give_finite_gradients():
  """Logits of a thousand: softplus must not overflow."""
  x = np.tile(np.eye(DIM, dtype=np.float32)[0], (BATCH, 2, 1))
  losses, gradients = run(x, temperature=1e-3, bias=-10.0)
  np.testing.assert_allclose(losses, 990 * (BATCH - 1), rtol=1e-5)
  assert all(np.isfinite(part).all() for part in gradients)


def test_first_steps_start_near_the_negatives(oracle):
  """The published start: all but the own pair are right from the beginning."""
  x = np.eye(BATCH, dtype=np.float32)[:, None].repeat(2, 1)
  losses, _ = run(x[..., :BATCH], temperature=0.1, bias=-10.0)
  wanted = softplus(0) + (BATCH - 1) * softplus(-10)
  np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def test_bias_that_is_no_scalar():
  with pytest.raises(ValueError, match=r"`bias` .* scalar, got shape \(4,\)"):
    sigmoid_contrastive_loss(
      jnp.ones((4, 2, 5)), temperature=0.1, bias=jnp.zeros(4)
    )
