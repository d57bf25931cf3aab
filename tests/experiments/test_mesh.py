"""Runs go on on another mesh."""

import shutil

import chex
import jax
import numpy as np
import pytest

from experiments import build, evaluate, results, train
from pmrl_jax import training

STEPS = 6


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
