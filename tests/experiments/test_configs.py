"""Every config that ships builds the model that it describes."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

import experiments.configs
from experiments import build, data_sets, results
from pmrl_jax import training

CONFIGS = sorted(
  path.stem
  for path in Path(experiments.configs.__file__).parent.glob("[a-z]*.py")
)


def _config(name):
  return importlib.import_module(f"experiments.configs.{name}")


@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_how_to_run_it(name):
  command = (
    f"python -m experiments.train --config=experiments/configs/{name}.py"
  )
  assert command in _config(name).__doc__


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_the_same_each_time(name):
  first, second = _config(name).get_config(), _config(name).get_config()
  first.seed = 1
  assert second.seed == 0
  assert first.to_dict() | {"seed": 0} == second.to_dict()


@pytest.mark.parametrize("name", CONFIGS)
def test_config_fits_its_data_and_the_objective(name, tmp_path, write_arrays):
  config = _config(name).get_config()
  if config.data.name == "arrays":
    write_arrays(tmp_path, first=lambda x: x, second=lambda x: x**2)
    for split in ("train", "test"):
      config.data[split] = str(tmp_path / f"{split}.npz")
  data = data_sets.load_data(config)
  results.check(config, data)
  data_sets.load_transforms(config, data.train.modalities)
  model = build.build_model(config, data)
  optimizer, schedule = build.build_optimizer(config)
  state = jax.eval_shape(
    lambda: build.initial_state(model, data, optimizer, config.seed)
  )
  batch = {
    "inputs": {
      modality: np.zeros((8, *spec.shape), spec.dtype)
      for modality, spec in data.train.spec.items()
    },
    "where": np.ones((8, len(data.train.modalities)), bool),
    "ids": np.arange(8, dtype=np.int32),
  }
  step = training.make_train_step(
    build.build_objective(config, model),
    optimizer,
    schedule=schedule,
    seed=config.seed,
    max_skipped=config.max_skipped,
    mesh=training.data_mesh(),
  )
  after, metrics = jax.eval_shape(step, state, batch)
  assert jax.tree.structure(after) == jax.tree.structure(state)
  for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after)):
    assert (before.shape, before.dtype) == (now.shape, now.dtype)
  assert {"loss", "alignment", "instance"} <= set(metrics)
  assert all(value.shape == () for value in metrics.values())
