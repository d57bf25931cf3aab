"""What all rival losses have in common: masks, ids, dtypes, mistakes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import (
  area_contrastive_loss,
  product_contrastive_loss,
  sigmoid_contrastive_loss,
  volume_contrastive_loss,
)

SHAPE = BATCH, NUM_MODALITIES, DIM = 6, 3, 5
EVERYWHERE = np.ones((BATCH, NUM_MODALITIES), bool)
ALL_DIFFER = np.arange(BATCH, dtype=np.int32)

LOSSES = {
  "sigmoid": functools.partial(sigmoid_contrastive_loss, bias=-1.0),
  "volume": volume_contrastive_loss,
  "area": area_contrastive_loss,
  "shuffled": functools.partial(
    product_contrastive_loss, key=jax.random.key(0)
  ),
  "all": functools.partial(product_contrastive_loss, negatives="all"),
}
each_loss = pytest.mark.parametrize("name", LOSSES)


@functools.cache
def compiled(name):
  def total(x, where, ids):
    losses = LOSSES[name](x, temperature=0.2, where=where, ids=ids)
    return jnp.sum(losses), losses

  return jax.jit(jax.grad(total, has_aux=True))


def run(name, x, where=EVERYWHERE, ids=ALL_DIFFER):
  """The gradient of the sum of the losses, and the losses."""
  return jax.device_get(compiled(name)(x, where, ids))


@pytest.fixture
def x(rng):
  return rng.normal(size=SHAPE).astype(np.float32)


@each_loss
def test_losses_are_float32_and_positive(name, x):
  gradient, losses = run(name, x)
  assert losses.shape == (BATCH,) and losses.dtype == np.float32
  assert (losses > 0).all() and np.isfinite(gradient).all()


@each_loss
def test_content_of_the_absent_never_matters(name, x, rng):
  where = rng.random(SHAPE[:2]) < 0.8
  where[0], where[1] = False, True
  expected = run(name, x, where)
  for content in (np.nan, np.inf, 7.0):
    dirty = np.where(where[..., None], x, np.float32(content))
    chex.assert_trees_all_equal(run(name, dirty, where), expected)
  assert np.all(expected[0][~where] == 0)
  assert expected[1][0] == 0


@each_loss
def test_a_batch_with_nothing_to_do_gives_exactly_zero(name, x):
  nothing = [(~EVERYWHERE, ALL_DIFFER)]
  # One modality of each.
  nothing.append((np.arange(NUM_MODALITIES) == [[1]] * BATCH, ALL_DIFFER))
  if name != "sigmoid":  # which pulls positives without any negative
    nothing.append((EVERYWHERE, np.zeros(BATCH, np.int32)))
    alone = np.zeros_like(EVERYWHERE)
    alone[2] = True
    nothing.append((alone, ALL_DIFFER))
  for where, ids in nothing:
    gradient, losses = run(name, x, where, ids)
    assert np.all(losses == 0) and np.all(gradient == 0)


@pytest.mark.parametrize("name", ["sigmoid", "volume", "area"])
def test_same_ids_are_no_negatives(name, x):
  ids, without = ALL_DIFFER.copy(), EVERYWHERE.copy()
  ids[[2, 5]] = ids[0]
  without[[2, 5]] = False
  same, removed = run(name, x, ids=ids)[1], run(name, x, without)[1]
  np.testing.assert_allclose(same[0], removed[0], rtol=1e-5)
  assert same[1] > removed[1]


@pytest.mark.parametrize("name", ["sigmoid", "volume", "area", "all"])
def test_losses_are_invariant_to_batch_order(name, x, rng):
  order, ids = rng.permutation(BATCH), np.array([0, 1, 2, 1, 0, 3], np.int32)
  gradient, losses = run(name, x, ids=ids)
  chex.assert_trees_all_close(
    run(name, x[order], ids=ids[order]),
    (gradient[order], losses[order]),
    rtol=1e-4,
    atol=1e-5,
  )


@each_loss
def test_gradients_are_finite_at_zero_and_at_equal_embeddings(name, x):
  for degenerate in (
    np.zeros(SHAPE, np.float32),
    np.ones(SHAPE, np.float32),
    np.repeat(x[:, :1], NUM_MODALITIES, axis=1),
    np.where(np.arange(NUM_MODALITIES)[:, None] == 1, 0, x),
    np.broadcast_to(np.eye(NUM_MODALITIES, DIM, dtype=np.float32), SHAPE),
  ):
    gradient, losses = run(name, degenerate)
    assert np.isfinite(losses).all() and np.isfinite(gradient).all()


@each_loss
def test_half_precision_is_computed_in_float32(name, x):
  half = jnp.asarray(x, jnp.bfloat16)
  full = run(name, half.astype(jnp.float32))[1]
  gradient, losses = jax.eval_shape(
    compiled(name), half, EVERYWHERE, ALL_DIFFER
  )
  assert losses.dtype == jnp.float32 and gradient.dtype == jnp.bfloat16
  losses = jax.jit(functools.partial(LOSSES[name], temperature=0.2))(half)
  np.testing.assert_allclose(losses, full, rtol=1e-5)


@each_loss
@pytest.mark.parametrize(
  "error,options,message",
  [
    (ValueError, {"temperature": 0.0}, "`temperature` must be positive"),
    (ValueError, {"ids": jnp.ones(3, int)}, r"`ids` .*\(6,\), got \(3,\)"),
    (TypeError, {"where": jnp.ones((6, 3))}, "must be bool .* float32"),
    (ValueError, {"block_size": 0}, "`block_size` must be a positive"),
    (ValueError, {"ring": True}, "needs `axis_name`"),
    (ValueError, {"axis_name": "data"}, "no such axis is mapped"),
  ],
)
def test_mistakes(name, x, error, options, message):
  with pytest.raises(error, match=message):
    LOSSES[name](x, **{"temperature": 0.1, **options})


@each_loss
def test_mistakes_of_embeddings(name):
  with pytest.raises(ValueError, match=r"\[batch, modality, dim\], got \(4, 5"):
    LOSSES[name](jnp.ones((4, 5)), temperature=0.1)
  with pytest.raises(ValueError, match="two modalities"):
    LOSSES[name](jnp.ones((4, 1, 5)), temperature=0.1)
  with pytest.raises(TypeError, match="floating-point .* got dtype int32"):
    LOSSES[name](jnp.ones((4, 3, 5), jnp.int32), temperature=0.1)


@pytest.mark.parametrize("name", ["sigmoid", "volume", "area"])
def test_unknown_positives(name, x):
  with pytest.raises(ValueError, match="'own', 'ids'; got 'all'"):
    LOSSES[name](x, temperature=0.1, positives="all")
