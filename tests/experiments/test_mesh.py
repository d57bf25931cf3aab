"""Runs are the same on any mesh, and go on on another one."""

import shutil

import chex
import jax
import numpy as np
import pytest

from experiments import build, evaluate, results, train
from experiments.benchmarks import steps as published
from pmrl_jax import training
from pmrl_jax.data import training_iterator

STEPS = 6
MESHES = [{"data": 8}, {"fsdp": 8}, {"fsdp": 2}]


@pytest.fixture(autouse=True)
def split_small_arrays(monkeypatch):
  """Those of small models are split as those of large ones are."""
  monkeypatch.setattr(training.sharding, "MIN_SPLIT_SIZE", 32)


@pytest.fixture
def on_devices(monkeypatch):
  """`on_devices(1)`: as if there were only so many."""
  devices = jax.devices()
  return lambda count: monkeypatch.setattr(
    jax, "devices", lambda *_: devices[:count]
  )


@pytest.fixture
def config(tiny):
  tiny.steps = STEPS
  tiny.ema_decay = 0.9
  tiny.evaluation.every = tiny.checkpoint.every = STEPS // 2
  return tiny


def _is_split(params):
  return any(not x.is_fully_replicated for x in jax.tree.leaves(params))


def _run(config):
  """Losses of some steps, the state after them, and its evaluation."""
  run = build.build_run(config)
  assert _is_split(run.state.params) == (run.mesh.shape["fsdp"] > 1)
  iterator = training_iterator(
    run.data.train, batch_size=config.batch_size, seed=0
  )
  step, state, losses = build.build_train_step(config, run), run.state, []
  for _ in range(STEPS):
    batch = build.model_inputs(next(iterator))
    state, metrics = step(state, training.shard_batch(batch, run.mesh))
    losses.append(float(metrics["loss"]))
  assert _is_split(state.params) == (run.mesh.shape["fsdp"] > 1)
  row = results.evaluate_split(run, state.eval_params, "instance")
  return losses, jax.device_get(state), row


@pytest.mark.slow
def test_a_run_is_the_same_on_every_mesh(here, config, on_devices):
  on_devices(1)
  expected, one, measured = _run(config)
  on_devices(8)
  for axes in MESHES:
    config.mesh = {"data": -1, "fsdp": 1} | axes
    losses, state, row = _run(config)
    np.testing.assert_allclose(losses, expected, atol=1e-5, rtol=1e-5)
    chex.assert_trees_all_close(state.params, one.params, atol=1e-4)
    chex.assert_trees_all_close(state.ema, one.ema, atol=1e-4)
    # One of the 64 queries may be on the edge.
    assert row["mean_R@1"] == pytest.approx(measured["mean_R@1"], abs=0.02)


@pytest.mark.slow
def test_a_run_goes_on_and_is_measured_on_other_devices(
  here, config, on_devices, saved_state
):
  config.mesh = {"data": -1, "fsdp": 2}
  train.train(config, here / "whole")
  shutil.copytree(here / "whole", here / "moved")
  shutil.rmtree(here / "moved" / "checkpoints" / str(STEPS))
  config.mesh = {"data": -1, "fsdp": 8}
  train.train(config, here / "moved")
  expected, state = (
    saved_state(here / name, STEPS) for name in ("whole", "moved")
  )
  # All but what is off.
  assert set(state) == set(training.TrainState._fields) - {"loss_scale"}
  chex.assert_trees_all_close(state, expected, atol=1e-4)
  chex.assert_trees_all_equal(
    saved_state(here / "moved", STEPS // 2),
    saved_state(here / "whole", STEPS // 2),
  )
  losses, expected_losses = (
    [
      row["loss"]
      for row in training.read_metrics(here / name)
      if row["kind"] == "train"
    ]
    for name in ("moved", "whole")
  )
  assert len(losses) == STEPS
  np.testing.assert_allclose(losses, expected_losses, atol=1e-5, rtol=1e-5)
  # The mesh of the run is none of one device; parameters lie on what there is.
  measured = {}

  def write(folder, *, params, **others):
    measured["params"] = params

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(results, "write_results", write)
    on_devices(1)
    evaluate.evaluate(here / "whole", "latest", here / "measured")
  # The average is what is measured.
  chex.assert_trees_all_equal(measured["params"], expected["ema"])


@pytest.mark.slow
def test_start_from_another_run_keeps_the_sharding(here, config):
  config.mesh = {"data": -1, "fsdp": 8}
  run = build.build_run(config)
  training.save_params(
    here / "params", jax.tree.map(lambda x: np.asarray(x) + 1, run.state.params)
  )
  started = build.start_from(run, str(here))
  for new, old in zip(
    jax.tree.leaves((started.state.params, started.state.ema)),
    jax.tree.leaves((run.state.params, run.state.ema)),
  ):
    assert new.sharding == old.sharding
    np.testing.assert_array_equal(new, np.asarray(old) + 1)
  buffers = [
    part.data.unsafe_buffer_pointer()
    for array in jax.tree.leaves(started.state)
    for part in array.addressable_shards
  ]
  assert len(set(buffers)) == len(buffers)  # each can be donated


@pytest.mark.slow
def test_the_published_model_is_the_same_on_a_mesh():
  case = published.StepCase("tiny", 8, "float32", True)
  model = published.build_model(case, remat="full")
  optimizer, schedule = published.make_optimizer()
  inputs = published.inputs(case)

  def start():
    params = model.init(
      jax.random.key(0), jax.tree.map(lambda x: x[:1], inputs)
    )["params"]
    return training.create_state(params, optimizer)

  def run(axes, devices):
    mesh = training.make_mesh({"data": -1, **axes}, jax.devices()[:devices])
    placed = training.state_shardings(jax.eval_shape(start), mesh)
    step = training.make_train_step(
      published.make_objective(model),
      optimizer,
      schedule=schedule,
      seed=0,
      max_skipped=1,
      mesh=mesh,
      shardings=placed,
    )
    state, losses = jax.jit(start, out_shardings=placed)(), []
    for _ in range(3):
      batch = training.shard_batch({"inputs": inputs}, mesh)
      state, metrics = step(state, batch)
      losses.append(float(metrics["loss"]))
    return losses, jax.device_get(state.params)

  expected, one = run({}, 1)
  losses, params = run({"fsdp": 4}, 8)
  np.testing.assert_allclose(losses, expected, rtol=1e-5)
  chex.assert_trees_all_close(params, one, atol=1e-5)
