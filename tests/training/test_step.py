"""The step: updates, devices, skipped steps, keys."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmrl_jax import training
from pmrl_jax.losses import pmrl_loss

DIM, WIDTH, BATCH = 4, 6, 16


def _params():
  return {"w": jax.random.normal(jax.random.key(0), (2, WIDTH, DIM))}


def _batch(seed=0, bad=False):
  inputs = np.random.default_rng(seed).normal(size=(BATCH, 2, WIDTH))
  inputs = inputs.astype(np.float32)
  if bad:
    inputs[3, 1, 2] = np.nan
  return {"inputs": inputs}


def _objective(params, batch, key):
  keep = jax.random.bernoulli(key, 0.8, batch["inputs"].shape)
  inputs = jnp.where(keep, batch["inputs"], 0.0)
  embeddings = jnp.einsum("bnw,nwd->bnd", inputs, params["w"])
  loss = pmrl_loss(embeddings)
  return loss.loss, {"alignment": loss.alignment, "instance": loss.instance}


def _setup(
  devices=1, max_skipped=3, seed=0, objective=_objective, ema_decay=None
):
  mesh = training.make_mesh(devices=jax.devices()[:devices])
  optimizer, schedule = training.make_optimizer(
    learning_rate=0.01, steps=20, warmup_steps=2, weight_decay=0.01
  )
  step = training.make_train_step(
    objective,
    optimizer,
    schedule=schedule,
    seed=seed,
    max_skipped=max_skipped,
    mesh=mesh,
    ema_decay=ema_decay,
  )
  state = training.create_state(_params(), optimizer, ema=ema_decay is not None)
  return step, training.replicate(state, mesh), mesh


def _run(num_steps, **options):
  step, state, mesh = _setup(**options)
  for number in range(num_steps):
    batch = training.shard_batch(_batch(number), mesh)
    state, metrics = step(state, batch)
  return jax.device_get(state), jax.device_get(metrics)


def test_eight_devices_take_the_same_steps_as_one():
  one, one_metrics = _run(5, devices=1)
  eight, eight_metrics = _run(5, devices=8)
  chex.assert_trees_all_close(one, eight, atol=1e-5, rtol=1e-4)
  chex.assert_trees_all_close(one_metrics, eight_metrics, atol=1e-5, rtol=1e-4)


def test_one_step_equals_optax_by_hand():
  step, state, mesh = _setup()
  batch = _batch()
  key = jax.random.fold_in(jax.random.key(0), 0)
  (loss, terms), gradient = jax.jit(
    jax.value_and_grad(_objective, has_aux=True)
  )(_params(), batch, key)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      optax.warmup_cosine_decay_schedule(0.0, 0.01, 2, 20), weight_decay=0.01
    ),
  )
  updates, _ = tx.update(gradient, tx.init(_params()), _params())
  state, metrics = step(state, training.shard_batch(batch, mesh))
  chex.assert_trees_all_close(
    jax.device_get(state.params),
    jax.device_get(optax.apply_updates(_params(), updates)),
    atol=1e-6,
  )
  expected = {"loss": loss, "grad_norm": optax.tree.norm(gradient), **terms}
  for name, value in expected.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_training_lowers_the_loss():
  step, state, mesh = _setup()
  batch = training.shard_batch(_batch(), mesh)
  losses = []
  for _ in range(20):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"]))
  assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_random_keys_come_from_the_seed_and_the_step():
  def keys_only(params, batch, key):
    noise = jax.random.normal(key, ())
    return (params["w"] ** 2).mean() + 0 * batch["inputs"].sum(), {
      "noise": noise
    }

  def noises(seed):
    step, state, mesh = _setup(seed=seed, objective=keys_only)
    batch = training.shard_batch(_batch(), mesh)
    values = []
    for _ in range(3):
      state, metrics = step(state, batch)
      values.append(float(metrics["noise"]))
    return values

  assert noises(1) == noises(1)
  assert len(set(noises(1) + noises(2))) == 6


def test_a_step_that_is_not_finite_changes_nothing_but_the_counts():
  step, state, mesh = _setup()
  state, _ = step(state, training.shard_batch(_batch(0), mesh))
  before = jax.device_get(state)
  state, metrics = step(state, training.shard_batch(_batch(1, bad=True), mesh))
  after = jax.device_get(state)
  chex.assert_trees_all_equal(before.params, after.params)
  chex.assert_trees_all_equal(before.opt_state, after.opt_state)
  assert int(after.step) == 2
  assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == 1
  state, metrics = step(state, training.shard_batch(_batch(2), mesh))
  assert int(metrics["skipped"]) == 1
  assert int(metrics["skipped_in_a_row"]) == 0
  assert not np.array_equal(state.params["w"], before.params["w"])


def test_state_stands_still_after_too_many_skipped_steps():
  step, state, mesh = _setup(max_skipped=2)
  bad = training.shard_batch(_batch(0, bad=True), mesh)
  for _ in range(2):
    state, _ = step(state, bad)
  broken = jax.device_get(state)
  assert int(broken.step) == 2 and int(broken.skipped_in_a_row) == 2
  state, _ = step(state, training.shard_batch(_batch(1), mesh))
  chex.assert_trees_all_equal(jax.device_get(state), broken)


def test_average_follows_the_steps_that_are_not_skipped():
  step, state, mesh = _setup(ema_decay=0.75)
  expected = np.array(state.ema["w"])
  np.testing.assert_array_equal(expected, state.params["w"])
  for number in range(4):
    bad = number == 1
    batch = training.shard_batch(_batch(number, bad), mesh)
    state, metrics = step(state, batch)
    if not bad:
      expected = 0.75 * expected + 0.25 * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-5)
  assert int(metrics["skipped"]) == 1
  assert not np.allclose(expected, state.params["w"], rtol=1e-4)
  assert state.eval_params is state.ema


def test_average_and_its_decay_belong_together():
  step, state, mesh = _setup(ema_decay=0.75)
  batch = training.shard_batch(_batch(), mesh)
  with pytest.raises(ValueError, match="got none and ema_decay=0.75"):
    step(state._replace(ema=None), batch)
  with pytest.raises(ValueError, match="between 0 and 1, such as 0.999"):
    _setup(ema_decay=1.0)
  step, state, mesh = _setup()
  assert state.eval_params is state.params
  with pytest.raises(ValueError, match="got one and ema_decay=None"):
    step(state._replace(ema=state.params), batch)


def test_weight_decay_spares_biases_and_scales():
  optimizer, _ = training.make_optimizer(
    learning_rate=0.1, weight_decay=0.5, steps=10
  )
  params = {
    "kernel": jnp.ones((2, 3)),
    "bias": jnp.ones(3),
    # Those of all layers lie in one matrix.
    "blocks": {"kernel": jnp.ones((4, 2, 3)), "scale": jnp.ones((4, 3))},
  }
  grads = jax.tree.map(jnp.zeros_like, params)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  for tree in (updates, updates["blocks"]):
    np.testing.assert_allclose(tree["kernel"], -0.05, rtol=1e-6)
  assert not updates["bias"].any()
  assert not updates["blocks"]["scale"].any()


def test_learning_rate_warms_up_and_ends_at_zero():
  _, schedule = training.make_optimizer(
    learning_rate=0.3, steps=100, warmup_steps=10
  )
  rates = [float(schedule(step)) for step in range(101)]
  assert rates[0] == 0 and rates[100] == pytest.approx(0, abs=1e-8)
  assert rates.index(max(rates)) == 10 and max(rates) == pytest.approx(0.3)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
    ({"steps": 0}, "steps must be positive, got 0"),
    ({"clip_norm": -1.0}, "clip_norm must be positive"),
    ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ({"warmup_steps": 10}, "less than the 10 steps"),
  ],
)
def test_optimizer_options_out_of_range_are_explained(change, message):
  options = {"learning_rate": 0.1, "steps": 10, "warmup_steps": 1} | change
  with pytest.raises(ValueError, match=message):
    training.make_optimizer(**options)


def test_batch_that_does_not_divide_by_the_devices_is_explained():
  mesh = training.make_mesh()
  training.check_batch_size(16, mesh)
  with pytest.raises(ValueError, match="got 20 for 8 devices; try 16"):
    training.check_batch_size(20, mesh)
  with pytest.raises(ValueError, match="got 0 for 8 devices; try 8"):
    training.check_batch_size(0, mesh)


def test_max_skipped_must_be_positive():
  with pytest.raises(ValueError, match="max_skipped must be at least 1"):
    _setup(max_skipped=0)
