"""Checkpoints are converted whole, or not at all with one message."""

import json
import pickle
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import train
from experiments.convert import from_torch, program
from pmrl_jax import training
from pmrl_jax.weights import models
from pmrl_jax.weights.files import open_checkpoint
from pmrl_jax.weights.places import to_tensors
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.tensors import lazy
from pmrl_jax.weights.trees import flat

TINY = Path(__file__).with_name("tiny_config.py")
SIZES = {"depth": 2, "width": 32, "num_heads": 4, "mlp_width": 16}
FIELDS = {
  "beats": {**SIZES, "patch_width": 8, "num_buckets": 8, "conv_kernel": 4},
  "bert": {**SIZES, "vocabulary_size": 9, "max_length": 6},
  "eva": {**SIZES, "image_size": 28, "head_width": 0},
  "clip_vit": {**SIZES, "image_size": 28, "head_width": 4},
  "ast": {**SIZES, "num_frames": 1024},
}


def state_dict(name, fields):
  """Random tensors for a model, as PyTorch would save them."""
  model = models.MODELS[name]
  module = model.build(fields)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda spec: rng.normal(size=spec.shape).astype(np.float32),
    models.parameters(model, module),
  )
  tensors = to_tensors(params, model.table(module, []))
  return {key: tensor.read() for key, tensor in tensors.items()}


def save(path, tensors):
  list(write_safetensors(path, {k: lazy(v) for k, v in tensors.items()}))
  return path


def read(path):
  tensors = open_checkpoint(path).tensors
  return {key: tensor.read() for key, tensor in tensors.items()}


def same(actual, expected):
  assert set(actual) == set(expected)
  for key in expected:
    assert actual[key].dtype == expected[key].dtype
    np.testing.assert_array_equal(actual[key], expected[key])


@pytest.fixture
def convert(call):
  return lambda *arguments: call(program.main, *arguments)


@pytest.fixture(scope="module")
def tensors():
  return state_dict("beats", FIELDS["beats"])


@pytest.fixture
def beats(tensors, tmp_path, monkeypatch):
  """A checkpoint of BEATs in the working folder."""
  monkeypatch.chdir(tmp_path)
  save(tmp_path / "beats.safetensors", tensors)
  return ["--from=beats.safetensors", "--to=out", "--model=beats"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_checkpoint_goes_there_and_back(name, convert, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  expected = state_dict(name, FIELDS[name])
  save(tmp_path / "in.safetensors", expected)
  fields = "--fields=num_heads=4"
  ended = convert(
    "--from=in.safetensors", "--to=a/out", f"--model={name}", fields
  )
  assert (ended.code, ended.err) == (0, "")
  assert "parameters" in ended.out
  assert "missing" not in ended.out and "unexpected" not in ended.out
  ended = convert("--from=a/out", "--to=b/back.safetensors")
  assert (ended.code, ended.err) == (0, "")
  same(read(tmp_path / "b" / "back.safetensors"), expected)
  assert {path.name for path in tmp_path.iterdir()} == {
    "in.safetensors", "a", "b"
  }  # fmt: skip


def test_what_was_done_is_described(convert, beats, tensors, tmp_path):
  save(
    tmp_path / "beats.safetensors",
    {**tensors, "predictor.weight": np.ones(2, np.float32)},
  )
  assert convert(*beats, "--under=encoders_sound").code == 0
  description = json.loads((tmp_path / "out" / "conversion.json").read_text())
  assert description["model"] == "beats"
  assert description["fields"]["width"] == 32
  assert description["unused"] == ["predictor.weight"]
  params = training.load_params(tmp_path / "out" / "params")
  assert set(params) == {"encoders_sound"}
  assert convert("--from=out", "--to=back.safetensors").code == 0
  same(read(tmp_path / "back.safetensors"), tensors)


def test_parameters_can_be_bfloat16(convert, beats, tmp_path):
  assert convert(*beats, "--param_dtype=bfloat16").code == 0
  params = training.load_params(tmp_path / "out" / "params")
  assert {str(x.dtype) for x in jax.tree.leaves(params)} == {"bfloat16"}
  assert convert("--from=out", "--to=back.safetensors").code == 0


def test_missing_and_unexpected_keys_are_named_and_refused(
  convert, beats, tensors, tmp_path, tree, check_mistake
):
  changed = {**tensors, "extra.one": np.ones(2), "extra.two": np.ones(2)}
  gone = ["post_extract_proj.bias", "encoder.layers.1.fc1.bias"]
  for key in gone:
    del changed[key]
  save(tmp_path / "beats.safetensors", changed)
  before = tree(tmp_path)
  new = ["extra.one", "extra.two"]
  check_mistake(
    convert(*beats),
    "lacks 2 of",
    "has 2 keys",
    "--allow_missing_keys",
    *gone,
    *new,
  )
  check_mistake(convert(*beats, "--allow_missing_keys"), "has 2 keys", *new)
  check_mistake(convert(*beats, "--allow_unexpected_keys"), "lacks 2 of", *gone)
  assert tree(tmp_path) == before and not (tmp_path / "out").exists()
  ended = convert(*beats, "--allow_missing_keys", "--allow_unexpected_keys")
  assert ended.code == 0, ended.err
  for key in gone:
    assert f"missing, hence random: {key}\n" in ended.out
  for key in new:
    assert f"unexpected, left out: {key}\n" in ended.out
  assert convert("--from=out", "--to=back.safetensors").code == 0
  back = read(tmp_path / "back.safetensors")
  for key in gone:
    assert np.all(np.isfinite(back.pop(key)))
  same(back, {k: v for k, v in tensors.items() if k not in gone})


def test_positions_for_other_images_are_resized_and_told(
  convert, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  save(tmp_path / "in.safetensors", state_dict("eva", FIELDS["eva"]))
  ended = convert(
    "--from=in.safetensors", "--to=out", "--model=eva",
    "--fields=num_heads=4,image_size=42",
  )  # fmt: skip
  assert ended.code == 0
  assert (
    "resized: visual.pos_embed from [1, 5, 32] to [1, 10, 32]\n" in ended.out
  )


def test_an_existing_target_is_kept_unless_told_otherwise(
  convert, beats, tmp_path, tree, check_mistake
):
  assert convert(*beats).code == 0
  before = tree(tmp_path)
  check_mistake(convert(*beats), "--to=out is there already", "--overwrite")
  # A mistake keeps the old one, too.
  check_mistake(
    convert(*beats, "--overwrite", "--fields=width=48"), "do not fit the model"
  )
  assert tree(tmp_path) == before
  assert convert(*beats, "--overwrite", "--under=a").code == 0
  assert set(training.load_params(tmp_path / "out" / "params")) == {"a"}
  (tmp_path / "mine").mkdir()
  (tmp_path / "mine" / "thesis.txt").write_text("years of work")
  check_mistake(
    convert(*beats, "--to=mine", "--overwrite"), "holds something else"
  )
  (tmp_path / "back.safetensors").write_text("old")
  arguments = ["--from=out", "--to=back.safetensors"]
  check_mistake(convert(*arguments), "is there already")
  assert convert(*arguments, "--overwrite").code == 0


def test_a_shape_that_does_not_fit_is_explained(
  convert, beats, check_mistake, tree, tmp_path
):
  before = tree(tmp_path)
  check_mistake(
    convert(*beats, "--fields=mlp_width=20"),
    "encoder.layers.0.fc1.weight is [16, 32], and blocks/mlp_in/kernel "
    "expects [20, 32]",
  )
  assert tree(tmp_path) == before


@pytest.mark.parametrize(
  ("name", "content", "fragment"),
  [
    ("x.safetensors", b"", "is empty"),
    ("x.safetensors", b"a text that was renamed\n" * 9, "is no safetensors"),
    ("x.safetensors", pickle.dumps({"a": [1.0]}), "is no safetensors"),
    ("x.txt", b"a text", "is no checkpoint by its name"),
    ("x.pt", b"", "is empty"),
  ],
)
def test_a_bad_file_is_explained(
  name, content, fragment, convert, tmp_path, monkeypatch, tree, check_mistake
):
  monkeypatch.chdir(tmp_path)
  (tmp_path / name).write_bytes(content)
  before = tree(tmp_path)
  check_mistake(
    convert(f"--from={name}", "--to=out", "--model=beats"), name, fragment
  )
  assert tree(tmp_path) == before


def test_a_truncated_file_is_explained(convert, beats, tmp_path, check_mistake):
  path = tmp_path / "beats.safetensors"
  path.write_bytes(path.read_bytes()[:-5])
  check_mistake(convert(*beats), "beats.safetensors", "truncated")


def test_a_missing_torch_is_named(
  convert, tmp_path, monkeypatch, check_mistake
):
  monkeypatch.chdir(tmp_path)
  monkeypatch.setitem(sys.modules, "torch", None)
  (tmp_path / "x.pt").write_bytes(b"something")
  check_mistake(
    convert("--from=x.pt", "--to=out", "--model=beats"), "pmrl_jax[torch]"
  )


def test_a_file_of_pytorch_is_converted(convert, tmp_path, monkeypatch):
  torch = pytest.importorskip("torch", reason="the extra `torch` is not there")
  monkeypatch.chdir(tmp_path)
  tensors = state_dict("beats", FIELDS["beats"])
  settings = {
    "encoder_layers": 2, "encoder_embed_dim": 32, "encoder_ffn_embed_dim": 16,
    "encoder_attention_heads": 4, "input_patch_size": 16, "embed_dim": 8,
    "conv_pos": 4, "num_buckets": 8, "max_distance": 900, "deep_norm": True,
    "relative_position_embedding": True, "gru_rel_pos": True,
  }  # fmt: skip
  model = {key: torch.tensor(array) for key, array in tensors.items()}
  torch.save({"cfg": settings, "model": model}, "x.pt")
  ended = convert("--from=x.pt", "--to=out", "--model=beats")
  assert (ended.code, ended.err) == (0, "")
  description = json.loads((tmp_path / "out" / "conversion.json").read_text())
  assert description["fields"]["max_distance"] == 900
  assert convert("--from=out", "--to=back.safetensors").code == 0
  same(read(tmp_path / "back.safetensors"), tensors)


@pytest.mark.parametrize(
  ("arguments", "fragments"),
  [
    ([], ["expected --from and --to"]),
    (["--from=nowhere.pt", "--to=x"], ["nowhere.pt does not exist"]),
    (["--from=beats.safetensors", "--to=out"], ["expected whose", "clip_vit"]),
    (["--from=beats.safetensors", "--to=x.pt"], ["has the suffix of a file"]),
    (["--from=beats.safetensors", "--to=beats.safetensors/x"], ["is a file"]),
    (["--model=bart"], ["should be one of"]),
    (["--fields=width"], ["expected name=number", "'width'"]),
    (["--fields=width=wide"], ["expected name=number", "'width=wide'"]),
    (["--fields=breadth=3"], ["has no fields ['breadth']", "'width'"]),
    (["--model=eva"], ["expected the key cls_token", "Is it one of another"]),
    (["--model=bert"], ["expected the key embeddings.word_embeddings"]),
    (["--model=pmrl"], ["expected the key embeddings.word_embeddings"]),
    (["--model=ast"], ["expected the key embeddings.cls_token"]),
    (["--model=clip_vit"], ["expected the key conv1.weight"]),
  ],
)
def test_a_mistake_in_the_flags_is_explained(
  arguments, fragments, convert, beats, tree, tmp_path, check_mistake
):
  before = tree(tmp_path)
  whole = [] if not arguments or "--to" in str(arguments) else beats
  check_mistake(convert(*whole, *arguments), *fragments)
  assert tree(tmp_path) == before


def test_a_damaged_folder_is_explained(convert, beats, tmp_path, check_mistake):
  back = ["--from=out", "--to=back.safetensors"]
  assert convert(*beats).code == 0
  check_mistake(convert("--from=out", "--to=other"), "become a .safetensors")
  description = tmp_path / "out" / "conversion.json"
  text = description.read_text()
  for wrong in ("{", "{}", '{"model": "x", "fields": {}, "under": ""}'):
    description.write_text(wrong)
    check_mistake(convert(*back), "conversion.json is not as experiments")
  description.write_text(text)
  for path in (tmp_path / "out" / "params").rglob("*"):
    if path.is_file() and path.parent.name == "d":
      path.write_bytes(path.read_bytes()[:10])
  check_mistake(convert(*back), "params", "damaged")
  assert not (tmp_path / "back.safetensors").exists()


def test_the_help_names_the_flags(capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["convert", "--help"])
  program.start()
  printed = capsys.readouterr().out
  assert "allow_missing_keys" in printed
  assert "python -m experiments.convert --from" in printed


# Where training starts from.


def folder_of(params, path):
  training.save_params(path / from_torch.PARAMS, params)
  return path


@pytest.mark.slow
def test_a_run_starts_from_converted_parameters(
  call, tmp_path, here, tiny_folder, saved_state
):
  step = max(
    int(path.name)
    for path in (tiny_folder / "runs" / "tiny_config" / "checkpoints").iterdir()
    if path.name.isdigit()
  )
  trained = saved_state(tiny_folder / "runs" / "tiny_config", step)["params"]
  name = sorted(trained)[0]
  folder_of({name: trained[name]}, here / "start")
  config = f"--config={TINY}"
  short = ["--config.steps=4", "--config.optimizer.learning_rate=1e-30"]
  ended = call(train.main, config, *short, "--config.init_from=start")
  assert ended.code == 0, ended.err
  count = len(flat({name: trained[name]}))
  assert f"{count} of {len(flat(trained))} parameter arrays" in ended.out
  after = saved_state(here / "runs" / "tiny_config", 4)["params"]
  for path, array in flat(trained[name]).items():
    np.testing.assert_allclose(flat(after[name])[path], array, atol=1e-6)
  # A run that goes on does not need the folder any more.
  (here / "start").rename(here / "gone")
  again = call(train.main, config, *short, "--config.init_from=start")
  assert again.code == 0 and "resumed from step 4" in again.out


def test_a_start_that_does_not_fit_is_explained(call, here, check_mistake):
  arguments = [f"--config={TINY}", "--config.init_from=start"]
  check_mistake(call(train.main, *arguments), "start, which is no folder that")
  folder_of({"nothing": np.ones(2, np.float32)}, here / "start")
  check_mistake(
    call(train.main, *arguments), "1 of 1 parameters in start", "nothing"
  )
  folder_of({"head_a": {"kernel": np.ones((3, 3))}}, here / "other")
  check_mistake(
    call(train.main, *arguments[:1], "--config.init_from=other"),
    "do not fit the model", "head_a/kernel is [3, 3], and the model's [8, 8]",
  )  # fmt: skip
  assert not (here / "runs").exists()
