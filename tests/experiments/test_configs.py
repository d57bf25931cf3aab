"""Every config that ships builds the model that it describes."""

import importlib
import json
import shutil
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
import soundfile

import experiments.configs
from experiments import build
from experiments.data_sets import load_data, load_transforms
from experiments.models import build_model
from pmrl_jax import evaluation, training
from pmrl_jax.data import evaluation_batches
from pmrl_jax.data.manifest import build as manifest_build
from pmrl_jax.data.manifest import read_manifest

CONFIGS = sorted(
  path.stem
  for path in Path(experiments.configs.__file__).parent.glob("[a-z]*.py")
)


def _config(name):
  return importlib.import_module(f"experiments.configs.{name}")


CLIP = Path(__file__).parents[1] / "data" / "fixtures" / "mdn_rabbit320.mp4"


def write_media(folder):
  """A table of two rows of a video, its sound, and a text."""
  shutil.copy(CLIP, folder / "clip.mp4")
  soundfile.write(folder / "clip.wav", np.zeros(8000), 8000)
  rows = [
    {"id": name, "video": "clip.mp4", "audio": "clip.wav", "text": name}
    | {"split": split}
    for name, split in (("a", "train"), ("b", "test"))
  ]
  lines = "".join(json.dumps(row) + "\n" for row in rows)
  (folder / "rows.jsonl").write_text(lines)


@pytest.mark.parametrize("name", CONFIGS)
def test_config_says_how_to_run_it(name):
  command = (
    f"python -m experiments.train --config=experiments/configs/{name}.py"
  )
  text = _config(name).__doc__.replace("\\\n", " ")  # one line of two
  assert command in " ".join(text.split())


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_the_same_each_time(name):
  first, second = _config(name).get_config(), _config(name).get_config()
  seed = first.seed
  first.seed = seed + 1
  assert second.seed == seed
  assert first.to_dict() | {"seed": seed} == second.to_dict()


# Those of the published model have tests of their own: they are large.
@pytest.mark.parametrize(
  "name",
  [name for name in CONFIGS if "matching" not in _config(name).get_config()],
)
def test_config_fits_its_data_and_the_objective(name, tmp_path, write_arrays):
  config = _config(name).get_config()
  if config.data.name == "arrays":
    write_arrays(tmp_path, first=lambda x: x, second=lambda x: x**2)
    for split in ("train", "test"):
      config.data[split] = str(tmp_path / f"{split}.npz")
  elif config.data.name in ("manifest", "tfds"):
    write_media(tmp_path)
    if config.data.name == "manifest":
      config.data.train = config.data.test = str(tmp_path / "rows.jsonl")
    else:
      table = read_manifest(tmp_path / "rows.jsonl", kinds={"audio": "audio"})
      config.data.data_set = str(tmp_path / "built")
      manifest_build(table, config.data.data_set, workers=1)
  data = load_data(config)
  load_transforms(config, data.train.modalities)
  optimizer, learning_rate = training.make_optimizer(
    steps=config.steps, **config.optimizer
  )
  run = build.Run(
    mesh=training.make_mesh(),
    data=data,
    model=build_model(config, data),
    optimizer=optimizer,
    learning_rate=learning_rate,
    state=None,
    embed=None,
    rerank=None,
  )
  batch = build.model_inputs(next(evaluation_batches(data.test, batch_size=8)))
  # Shapes alone: nothing is compiled.
  state = jax.eval_shape(
    lambda: training.create_state(
      run.model.init(jax.random.key(0), batch["inputs"])["params"], optimizer
    )
  )
  step = build.build_train_step(config, run)
  after, metrics = jax.eval_shape(step, state, batch)
  chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
  assert {"loss", "alignment", "instance"} <= set(metrics)
  assert all(value.shape == () for value in metrics.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_config_evaluates_and_saves_before_it_ends(name):
  config = _config(name).get_config()
  assert config.evaluation.level in ("class", "instance")
  assert config.evaluation.every < config.steps
  assert config.checkpoint.every < config.steps
  training.check_retention(**config.checkpoint.retention)
  known = {*evaluation.SCALARS, evaluation.RERANKED}
  assert config.checkpoint.retention.best_metric in known


@pytest.mark.slow
def test_micro_batches_change_nothing_but_memory(tmp_path, tiny, write_arrays):
  write_arrays(tmp_path)
  for split in ("train", "test"):
    tiny.data[split] = str(tmp_path / f"{split}.npz")
  encoder = tiny.model.default_encoder
  encoder.dropout_rate = encoder.input_dropout_rate = 0.0
  tiny.optimizer.warmup_steps = 0  # or the first step would change nothing
  metrics, params = [], []
  for size in (None, 5):
    tiny.micro_batch_size = size
    run = build.build_run(tiny)
    batch = next(evaluation_batches(run.data.test, batch_size=16))
    batch = training.shard_batch(build.model_inputs(batch), run.mesh)
    state, values = build.build_train_step(tiny, run)(run.state, batch)
    metrics.append(values)
    params.append(state.params)
  assert metrics[0]["grad_norm"] > 0
  chex.assert_trees_all_close(metrics[1], metrics[0], rtol=1e-5)
  # The first step of Adam is about the sign of each gradient.
  chex.assert_trees_all_close(params[1], params[0], atol=1e-5)
