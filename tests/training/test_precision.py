"""float16: what underflows or overflows without a scale trains with it."""

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pmrl_jax import training

MAX_SKIPPED = 2


def _objective(params, batch, key):
  """Its gradient in float16 is 2e-8 times the batch, which underflows."""
  del key
  product = params["w"].astype(jnp.float16) * batch.astype(jnp.float16)
  return 2e-8 * jnp.sum(product.astype(jnp.float32)), {}


def _trainer(loss_scale, objective=_objective):
  optimizer = optax.sgd(1e7)
  mesh = training.make_mesh()
  step = training.make_train_step(
    objective,
    optimizer,
    schedule=lambda step: 1e7,
    seed=0,
    max_skipped=MAX_SKIPPED,
    mesh=mesh,
  )
  state = training.create_state(
    {"w": jnp.ones(8)}, optimizer, loss_scale=loss_scale
  )
  return step, training.replicate(state, mesh), mesh


def _steps(loss_scale, batches, objective=_objective):
  """The states and the metrics after each step."""
  step, state, mesh = _trainer(loss_scale, objective)
  history = []
  for value in batches:
    batch = np.full(8, value, np.float32)
    state, metrics = step(state, training.shard_batch(batch, mesh))
    history.append((jax.device_get(state), jax.device_get(metrics)))
  return history


def test_a_gradient_that_underflows_trains_with_a_scale_only():
  ((without, metrics),) = _steps(None, [1.0])
  assert metrics["grad_norm"] == 0 and np.all(without.params["w"] == 1)
  ((state, metrics),) = _steps(training.make_loss_scale(), [1.0])
  np.testing.assert_allclose(state.params["w"], 0.8, rtol=1e-2)
  np.testing.assert_allclose(metrics["grad_norm"], 2e-8 * 8**0.5, rtol=1e-2)
  np.testing.assert_allclose(metrics["loss"], 1.6e-7, rtol=1e-3)
  assert state.params["w"].dtype == np.float32


def _large(params, batch, key):
  """Its gradient in float16 is 8 times the scale, which overflows at first."""
  del key
  product = params["w"].astype(jnp.float16) * batch.astype(jnp.float16)
  return 8 * jnp.sum(product.astype(jnp.float32)), {}


def test_a_gradient_that_overflows_halves_the_scale_until_it_fits():
  history = _steps(training.make_loss_scale(), [1.0] * 5, _large)
  scales = [float(metrics["loss_scale"]) for _, metrics in history]
  assert scales == [2.0**16, 2.0**15, 2.0**14, 2.0**13, 2.0**12]
  # More steps in a row than may be skipped, and none of them counts.
  assert [int(m["skipped"]) for _, m in history] == [1, 2, 3, 4, 4]
  assert [int(m["skipped_in_a_row"]) for _, m in history] == [0] * 5
  *skipped, (last, metrics) = history
  for state, _ in skipped:
    np.testing.assert_array_equal(state.params["w"], 1)
  assert np.all(last.params["w"] < 1)
  np.testing.assert_allclose(metrics["grad_norm"], 8 * 8**0.5, rtol=1e-3)


def test_the_scale_grows_after_some_finite_gradients():
  scale = training.make_loss_scale(initial=4.0, growth_interval=2)
  history = _steps(scale, [0.0] * 7)
  assert [float(m["loss_scale"]) for _, m in history] == [4, 4, 4, 8, 8, 8, 16]


def test_steps_count_as_broken_once_the_scale_is_at_its_minimum():
  scale = training.make_loss_scale(initial=2.0)
  history = _steps(scale, [np.inf] * 5)
  in_a_row = [int(m["skipped_in_a_row"]) for _, m in history]
  assert in_a_row == [0, 1, MAX_SKIPPED, MAX_SKIPPED, MAX_SKIPPED]
  # Then the state stands still, as without a scale.
  chex.assert_trees_all_equal(history[2][0], history[4][0])
  assert float(history[4][0].loss_scale.scale) == 1


def test_a_loss_alone_that_is_not_finite_counts_as_broken():
  def objective(params, batch, key):
    loss, terms = _objective(params, batch, key)
    return loss + jnp.nan, terms  # its gradient is finite

  history = _steps(training.make_loss_scale(), [1.0] * 2, objective)
  assert int(history[-1][1]["skipped_in_a_row"]) == 2


def test_a_checkpoint_has_the_scale(tmp_path):
  step, state, mesh = _trainer(training.make_loss_scale(), _large)
  batch = training.shard_batch(np.ones(8, np.float32), mesh)
  for _ in range(3):
    state, _ = step(state, batch)
  iterator = iter(grain.MapDataset.range(5).to_iter_dataset())
  checkpointer = training.Checkpointer(tmp_path / "checkpoints")
  checkpointer.save(3, state, iterator)
  checkpointer.wait()
  _, fresh, _ = _trainer(training.make_loss_scale(), _large)
  restored = checkpointer.restore(fresh, iterator)
  checkpointer.close()
  assert restored is not None
  assert float(restored.state.loss_scale.scale) == 2.0**13
  chex.assert_trees_all_equal(
    jax.device_get(restored.state), jax.device_get(state)
  )
