"""Checkpoints become one file, and what reads it finds the same in it."""

import json
from typing import Any, NamedTuple

import chex
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from experiments import export, initialisation, train
from experiments.configs import published
from experiments.convert import from_torch
from experiments.models import build_model
from experiments.workdir import read_config
from pmrl_jax import training
from pmrl_jax.weights import models
from pmrl_jax.weights.safetensors_files import read_safetensors
from pmrl_jax.weights.state_dict import to_state_dict
from pmrl_jax.weights.trees import flat, nested
from tests.experiments.tiny_published import tiny_model

RUN = "runs/tiny_config"


class State(NamedTuple):
  """A training state that has an average as well."""

  params: Any
  opt_state: Any
  ema: Any


def write_run(folder, config, states):
  """A run's folder with checkpoints; the first is the best."""
  folder.mkdir()
  (folder / "config.json").write_text(config.to_json())
  iterator = iter(grain.MapDataset.range(5).to_iter_dataset())
  metric = config.checkpoint.retention.best_metric
  checkpointer = training.Checkpointer(
    folder / "checkpoints", keep=5, best_metric=metric
  )
  for order, (step, state) in enumerate(states.items()):
    checkpointer.save(step, state, iterator, {metric: -float(order)})
  checkpointer.close()
  return folder


@pytest.fixture
def averaged(tiny, tmp_path):
  """A run of two checkpoints with a moving average, partly in bfloat16."""

  def state(value):
    params = {
      "a": {"kernel": jnp.full((2, 3), value, jnp.bfloat16)},
      "b": jnp.arange(4.0) * value,
      "temperature": jnp.float32(value),
    }
    half = jax.tree.map(lambda x: x / 2, params)
    return State(params, jax.tree.map(jnp.zeros_like, params), half)

  with tiny.unlocked():
    tiny.ema_decay = 0.5
  return write_run(tmp_path / "run", tiny, {3: state(2.0), 5: state(4.0)})


@pytest.fixture(scope="module")
def config():
  """The published model, small."""
  config = published.get_config()
  changes = {
    **tiny_model(depth=2),
    "model.encoders.text.vocabulary_size": 9,
  }
  for name, value in changes.items():
    config.update_from_flattened_dict({name: value})
  return config


def random_params(config, modalities):
  class Data(NamedTuple):
    train: Any
    vocabulary_sizes: dict[str, int]

  data = Data(ml_collections.FrozenConfigDict({"modalities": modalities}), {})
  model = build_model(config, data)
  rng = np.random.default_rng(0)
  shapes = models.parameters(models.MODELS["pmrl"], model)
  return model, jax.tree.map(
    lambda spec: rng.normal(size=spec.shape).astype(spec.dtype), shapes
  )


def same(actual, expected):
  assert set(actual) == set(expected)
  for key in expected:
    assert actual[key].dtype == expected[key].dtype
    np.testing.assert_array_equal(actual[key], expected[key])


def read(path):
  return {key: each.read() for key, each in read_safetensors(path).items()}


def test_the_best_checkpoint_of_a_run_becomes_a_file(
  tiny_folder, saved_state, run, tmp_path
):
  target = tmp_path / "new" / "file.safetensors"
  ended = run("export", f"--workdir={tiny_folder / RUN}", f"--to={target}")
  assert ended.code == 0, ended.err
  place, _ = initialisation._place(tiny_folder / RUN)
  step = int(place.parent.name)
  trained = saved_state(tiny_folder / RUN, step)["params"]
  # The library itself reads it, too.
  same(safetensors.numpy.load_file(target), flat(trained))
  assert f"{len(flat(trained))} arrays" in ended.out
  with safetensors.safe_open(target, framework="numpy") as file:
    metadata = file.metadata()
  assert (metadata["format"], metadata["step"]) == ("flax", str(step))
  config = read_config(tiny_folder / RUN)
  assert json.loads(metadata["config"]) == json.loads(config.to_json())
  assert [path.name for path in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize(
  ("flags", "kernel"),
  [
    ([], 2.0),
    (["--step=latest"], 4.0),
    (["--step=3"], 2.0),
    (["--ema"], 1.0),
    (["--ema", "--step=5"], 2.0),
  ],
)
def test_step_and_average_are_chosen_and_dtypes_kept(
  averaged, call, tmp_path, flags, kernel
):
  target = tmp_path / "file.safetensors"
  ended = call(export.main, f"--workdir={averaged}", f"--to={target}", *flags)
  assert ended.code == 0, ended.err
  arrays = read(target)
  assert set(arrays) == {"a/kernel", "b", "temperature"}
  assert arrays["a/kernel"].dtype == jnp.bfloat16
  np.testing.assert_array_equal(arrays["a/kernel"], kernel)
  np.testing.assert_array_equal(arrays["b"], np.arange(4.0) * kernel)
  assert arrays["temperature"].shape == ()


def test_one_array_is_read_at_a_time(averaged, tmp_path, monkeypatch):
  asked = []
  load = training.load_param

  def load_param(folder, name, shape, part):
    asked.append(name)
    return load(folder, name, shape, part)

  monkeypatch.setattr(training, "load_param", load_param)
  monkeypatch.setattr(training, "load_params", None)
  export.export(averaged, tmp_path / "file.safetensors")
  assert sorted(asked) == ["a/kernel", "b", "temperature"]


@pytest.mark.slow
def test_another_run_starts_from_the_file(averaged, tmp_path, capsys):
  target = tmp_path / "file.safetensors"
  export.export(averaged, target)
  ours = {
    "a": {"kernel": jnp.zeros((2, 3))},
    "b": jnp.zeros(4),
    "temperature": jnp.zeros(()),
    "c": jnp.full(2, 7.0),
  }
  capsys.readouterr()
  params = initialisation.replaced(ours, [str(target)])
  assert "3 of 4 parameter arrays" in capsys.readouterr().out
  expected = nested(
    {"a/kernel": 2, "b": np.arange(4) * 2, "temperature": 2, "c": 7}
  )
  chex.assert_trees_all_equal(
    jax.device_get(params),
    jax.tree.map(
      lambda value, array: np.broadcast_to(value, array.shape).astype(
        np.float32
      ),
      expected,
      ours,
    ),
  )
  del ours["b"]
  with pytest.raises(ValueError, match="1 of 3 parameters in .*file.safetens"):
    initialisation.replaced(ours, [str(target)])


@pytest.mark.slow
def test_the_published_model_goes_to_the_official_names_and_back(
  config, tmp_path
):
  model, params = random_params(config, ("text", "vision", "audio", "subtitle"))
  folder = write_run(tmp_path / "run", config, {7: State(params, {}, None)})
  target = tmp_path / "official.safetensors"
  export.export(folder, target, step="7", names="torch")
  table = models.MODELS["pmrl"].table(model, [])
  tensors = read(target)
  same(tensors, dict(to_state_dict(params, table)))
  assert tensors["contra_head_t.linear.weight"].shape == (8, 16)

  heads = {f"{name}.num_heads": 2 for name in ("text", "vision", "audio")}
  others = {"audio.conv_groups": 2}
  from_torch.convert(
    target,
    tmp_path / "back",
    from_torch.Options(model="pmrl", fields=heads | others),
  )
  back = training.load_params(tmp_path / "back" / from_torch.PARAMS)
  same(flat(back), flat(params))


def test_a_part_of_the_published_model_has_its_official_names(config, tmp_path):
  model, params = random_params(config, ("text", "vision"))
  folder = write_run(tmp_path / "run", config, {7: State(params, {}, None)})
  target = tmp_path / "official.safetensors"
  export.export(folder, target, names="torch")
  keys = set(read(target))
  assert "contra_head_v.linear.weight" in keys
  assert not [key for key in keys if "audio" in key or "subtitle" in key]


def test_a_file_of_official_names_is_no_start(config, tmp_path):
  _, params = random_params(config, ("text", "vision"))
  folder = write_run(tmp_path / "run", config, {7: State(params, {}, None)})
  target = tmp_path / "official.safetensors"
  export.export(folder, target, names="torch")
  with pytest.raises(ValueError, match="'pt'.*experiments.convert makes"):
    initialisation.replaced(params, [str(target)])


def test_a_file_is_replaced_only_if_told(
  averaged, call, tmp_path, check_mistake
):
  target = tmp_path / "file.safetensors"
  target.write_text("precious")
  arguments = [f"--workdir={averaged}", f"--to={target}"]
  check_mistake(
    call(export.main, *arguments), "is there already", "--overwrite"
  )
  assert target.read_text() == "precious"
  assert call(export.main, *arguments, "--overwrite").code == 0
  assert "a/kernel" in read(target)


@pytest.mark.parametrize(
  ("flags", "fragments"),
  [
    (["--workdir="], ["expected --workdir", "--to"]),
    (["--to="], ["expected --workdir", "--to"]),
    (["--to=file.npz"], ["must be a .safetensors file, got file.npz"]),
    (["--to=folder.safetensors"], ["is a folder"]),
    (["--to=text/x.safetensors"], ["cannot be there", "text is a file"]),
    (["--workdir=nowhere"], ["nowhere holds no run"]),
    (["--step=4"], ["latest, best or one of [3, 5], got '4'"]),
    (["--step=first"], ["one of [3, 5], got 'first'"]),
    (["--names=torch"], ["'pmrl'", "got 'multimodal'"]),
    (["--names=numpy"], ["numpy", "flax|torch"]),
  ],
)
def test_a_mistake_is_explained(
  averaged, call, tmp_path, monkeypatch, check_mistake, flags, fragments
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder.safetensors").mkdir()
  (tmp_path / "text").write_text("")
  before = sorted(tmp_path.rglob("*"))
  ended = call(export.main, "--workdir=run", "--to=file.safetensors", *flags)
  check_mistake(ended, *fragments)
  assert sorted(tmp_path.rglob("*")) == before


def test_a_run_without_an_average_or_checkpoints_is_explained(
  tiny, tmp_path, call, check_mistake
):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "config.json").write_text(tiny.to_json())
  arguments = [f"--workdir={folder}", f"--to={tmp_path}/file.safetensors"]
  check_mistake(call(export.main, *arguments), "no checkpoints yet")
  check_mistake(call(export.main, *arguments, "--ema"), "config.ema_decay")


def test_a_damaged_checkpoint_leaves_no_file(
  averaged, call, tmp_path, check_mistake
):
  files = (averaged / "checkpoints" / "5" / "state").rglob("*")
  for path in files:
    if path.is_file():
      path.write_bytes(path.read_bytes()[:-1])
  target = tmp_path / "file.safetensors"
  ended = call(
    export.main, f"--workdir={averaged}", f"--to={target}", "--step=5"
  )
  check_mistake(ended, "damaged")
  assert not list(tmp_path.glob("file*"))


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "which is no file"),
    (b"x" * 9, "is no safetensors file"),
  ],
)
def test_a_start_that_is_no_such_file_is_explained(
  here, call, check_mistake, content, message
):
  if content is not None:
    (here / "start.safetensors").write_bytes(content)
  ended = call(
    train.main,
    f"--config={__file__.replace('test_export', 'tiny_config')}",
    "--config.init_from=start.safetensors",
  )
  check_mistake(ended, "start.safetensors", message)
  assert not (here / "runs").exists()
