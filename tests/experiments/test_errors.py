"""Every mistake: one message, exit code 2, and nothing is written."""

import io
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import cli, evaluate, train
from experiments import workdir as workdirs

CONFIGS = Path(train.__file__).parent / "configs"
TINY = Path(__file__).with_name("tiny_config.py")
DIGITS = CONFIGS / "tri_modal.py"


def _check(ended, *fragments):
  """One message that says what was expected, what came, and what to do."""
  assert ended.code == cli.MISTAKE, ended
  assert ended.err.startswith("error: ")
  assert ended.err.count("error: ") == 1
  assert "Traceback" not in ended.err and ended.out == ""
  for fragment in fragments:
    assert fragment in ended.err


# Overrides of the tiny config, and what the message must hold.
OVERRIDES = {
  "unknown key": (["stpes=3"], ["no key stpes", "did you mean steps?"]),
  "unknown key in a section": (
    ["loss.temprature=1"],
    ["no key loss.temprature", "loss.instance_temperature"],
  ),
  "unknown section": (["modl.dim=8"], ["no key modl.dim", "model.dim?"]),
  "unlike any key": (["zzz=1"], ["no key zzz", "its keys are: batch_size,"]),
  "key below a number": (["steps.x=1"], ["no key steps.x", "steps?"]),
  "two unknown keys": (["stpes=3", "sed=1"], ["mean steps?", "mean seed"]),
  "word for a number": (
    ["steps=many"],
    ["config.steps=many", "expected int, as the 60", "tiny_config.py"],
  ),
  "fraction for a count": (["steps=3.5"], ["config.steps=3.5", "expected int"]),
  "word for a fraction": (
    ["optimizer.learning_rate=fast"],
    ["learning_rate=fast", "expected float"],
  ),
  "number for a section": (["loss=3"], ["config.loss=3", "one by one"]),
  "no steps": (["steps=0"], ["steps must be at least 1 step, got 0"]),
  "warm-up too long": (["steps=2"], ["warmup_steps", "2 steps", "got 2"]),
  "never logs": (["log_every=0"], ["log_every", "at least 1", "got 0"]),
  "never saves": (["checkpoint.every=0"], ["checkpoint_every", "got 0"]),
  "never evaluates": (["evaluation.every=0"], ["eval_every", "got 0"]),
  "keeps nothing": (
    ["checkpoint.retention.keep=0"],
    ["keep must be at least 1, got 0"],
  ),
  "best of another kind": (
    ["checkpoint.retention.best_mode=most"],
    ["'max' or 'min', got 'most'"],
  ),
  "best by what is not measured": (
    ["checkpoint.retention.best_metric=loss"],
    ["best_metric must be one of", "mean_R@1", "got 'loss'"],
  ),
  "unknown level": (
    ["evaluation.level=word"],
    ["'class' or 'instance', got 'word'"],
  ),
  "class level without labels": (
    ["evaluation.level=class"],
    ["has no labels; add them, or set it to 'instance'"],
  ),
  "batch that does not divide": (
    ["batch_size=20"],
    ["multiple of the number of devices, got 20 for 8 devices; try 16"],
  ),
  "evaluation batch that does not divide": (
    ["evaluation.batch_size=12"],
    ["got 12 for 8 devices; try 8"],
  ),
  "negative seed": (["seed=-1"], ["seed", "not negative, got -1"]),
  "no skipped step": (["max_skipped=0"], ["max_skipped", "at least 1, got 0"]),
  "unknown precision": (
    ["precision=float8"],
    ["'bfloat16', 'float32'", "got 'float8'"],
  ),
  "space without dimension": (["model.dim=0"], ["model.dim", "got 0"]),
  "encoder without width": (
    ["model.default_encoder.width=0"],
    ["width must be positive, got 0"],
  ),
  "encoder of negative depth": (
    ["model.default_encoder.depth=-1"],
    ["depth must be positive, got -1"],
  ),
  "dropout of everything": (
    ["model.default_encoder.dropout_rate=1.0"],
    ["dropout_rate must be less than 1, got 1.0"],
  ),
  "unknown encoder": (
    ["model.default_encoder.kind=mlp"],
    ["kind must be one of", "'table'", "got 'mlp'"],
  ),
  "encoder for other data": (
    ["model.default_encoder.kind=trajectory_transformer"],
    ["unknown fields ['input_dropout_rate']", "num_heads"],
  ),
  "negative learning rate": (
    ["optimizer.learning_rate=-1.0"],
    ["learning_rate must be positive, got -1.0"],
  ),
  "unknown orientation": (
    ["loss.orientation=up"],
    ["'free', 'lifted', 'consensus'", "got 'up'"],
  ),
  "no temperature": (
    ["loss.alignment_temperature=0.0"],
    ["alignment_temperature", "positive, got 0.0"],
  ),
  "unknown data set": (
    ["data.name=mnist"],
    ["one of ['arrays', 'mfeat', 'multimodal_digits'], got 'mnist'"],
  ),
  "one modality": (['data.modalities=("a",)'], ["two modalities or more"]),
  "same modality twice": (
    ['data.modalities=("a","a")'],
    ["two modalities or more", "got ['a']"],
  ),
  "modality without data": (
    ['data.modalities=("a","c")'],
    ["train.npz has no arrays ['c']", "it has ['a', 'b']", "data.modalities"],
  ),
  "missing data file": (
    ["data.test=nope.npz"],
    ["'nope.npz' does not exist", "config.data.test"],
  ),
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_mistake_in_an_override_is_explained(name, call, here, tree):
  overrides, fragments = OVERRIDES[name]
  before = tree(here)
  ended = call(
    train.main, f"--config={TINY}", *(f"--config.{o}" for o in overrides)
  )
  _check(ended, *fragments)
  assert tree(here) == before and not (here / "runs").exists()


@pytest.mark.parametrize(
  ("override", "fragments"),
  [
    (
      'data.modalities=("image","pen")',
      ["'pen' has no encoder", "Add config.model.encoders.pen"],
    ),
    (
      'data.modalities=("image","smell")',
      ["'speech', 'text', 'pen'", "got ['image', 'smell']"],
    ),
    ("data.ids=labels", ["label", "instance", "got 'labels'"]),
    (
      "transforms.speech.random_time_shift.max_samples=far",
      ["max_samples=far", "expected int, as the"],
    ),
  ],
)
def test_mistake_about_the_digits_is_explained(override, fragments, call, here):
  ended = call(train.main, f"--config={DIGITS}", f"--config.{override}")
  _check(ended, *fragments)
  assert not (here / "runs").exists()


# The body of get_config() after `config` is the tiny one.
CONFIG_CODE = {
  "option that the loss does not have": (
    "config.loss.margin = 0.2",
    ["unexpected keyword argument 'margin'"],
  ),
  "option that the optimizer does not have": (
    "config.optimizer.momentum = 0.9",
    ["unexpected keyword argument 'momentum'"],
  ),
  "field that the encoder does not have": (
    "config.model.default_encoder.heads = 2",
    ["unknown fields ['heads']", "a table has ['depth',"],
  ),
  "field that the encoder lacks": (
    "del config.model.default_encoder['width']",
    ["lacks the fields ['width'] of a table"],
  ),
  "modality without encoder": (
    "del config.model['default_encoder']",
    ["'a' has no encoder", "Add config.model.encoders.a"],
  ),
  "unknown transform": (
    "config.transforms = {'a': {'blur': {}}}",
    ["config.transforms.a names 'blur'", "random_gaussian_noise"],
  ),
  "argument that the transform does not have": (
    "config.transforms.a.random_gaussian_noise.sigma = 1.0",
    ["unexpected keyword argument 'sigma'"],
  ),
}


@pytest.mark.parametrize("name", CONFIG_CODE)
def test_mistake_in_a_config_file_is_explained(name, call, here, tree):
  code, fragments = CONFIG_CODE[name]
  (here / "mine.py").write_text(
    "import runpy\n\n\ndef get_config():\n"
    f"  config = runpy.run_path({str(TINY)!r})['get_config']()\n"
    f"  {code}\n"
    "  return config\n"
  )
  before = tree(here)
  _check(call(train.main, "--config=mine.py"), *fragments)
  assert tree(here) == before and not (here / "runs").exists()


@pytest.mark.parametrize(
  ("text", "fragments"),
  [
    ("def get_config(:\n", ["cannot be loaded", "invalid syntax", "line 1"]),
    ("import no_such_package\n", ["cannot be loaded", "no_such_package"]),
    ("config = {}\n", ["mine.py", "no function get_config()"]),
  ],
)
def test_config_file_that_cannot_be_loaded_is_explained(
  text, fragments, call, here
):
  (here / "mine.py").write_text(text)
  _check(call(train.main, "--config=mine.py"), *fragments)


@pytest.mark.parametrize(
  ("arguments", "fragments"),
  [
    (["--config=nope.py", "--config.steps=3"], ["nope.py", "tri_modal.py"]),
    (["--config", CONFIGS, "--config.steps=3"], [str(CONFIGS)]),
    (["--config.steps=3", f"--config={TINY}"], ["before a value for --config"]),
    ([f"--config={TINY}", "--config.steps"], ["Missing value"]),
    ([f"--config={TINY}", "--wrkdir=x"], ["Did you mean: workdir"]),
    ([f"--config={TINY}", "resume"], ["unexpected arguments ['resume']"]),
  ],
)
def test_mistake_in_the_flags_is_explained(arguments, fragments, call, here):
  _check(call(train.main, *arguments), *fragments)
  assert not (here / "runs").exists()


def test_debug_shows_where_a_mistake_was_found(call, here):
  with pytest.raises(ValueError, match="max_skipped must be at least 1"):
    call(train.main, f"--config={TINY}", "--debug", "--config.max_skipped=0")


def _nan(rows):
  values = rows.copy()
  values[5, 2] = np.nan
  return values


DATA = {
  "NaN": ({"b": _nan}, ["'b' holds NaN or infinity in item 5", "where="]),
  "infinity": (
    {"a": lambda rows: rows / np.float32(0)},
    ["'a' holds NaN or infinity", "repair them"],
  ),
  "empty split": (
    {"a": np.zeros((0, 3)), "b": np.zeros((0, 4))},
    ["at least one, got {'a': 0, 'b': 0}"],
  ),
  "other numbers of rows": (
    {"b": np.zeros((7, 4))},
    ["the same number of rows", "'b': 7"],
  ),
  "texts": (
    {"b": lambda rows: np.full(len(rows), "word")},
    ["expected numbers in 'b'", "encode them"],
  ),
  "images for an encoder of tables": (
    {"b": lambda rows: np.zeros((len(rows), 4, 4), np.float32)},
    ["rows [batch, feature]", "4, 4"],
  ),
  "mask of another shape": (
    {"where": lambda rows: np.ones((len(rows), 3), bool)},
    ["where= of shape (64, 2) and type bool, got (64, 3)"],
  ),
  "labels that are no integers": (
    {"labels": lambda rows: rows[:, 0]},
    ["labels= of shape (64,) and an integer type"],
  ),
  "objects": (
    {"b": lambda rows: np.array([{}] * len(rows), object)},
    ["train.npz is no .npz file of plain arrays", "allow_pickle=False"],
  ),
}


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("name", DATA)
def test_bad_data_is_explained(name, call, here, write_arrays, tree):
  changes, fragments = DATA[name]
  write_arrays(here, **changes)
  before = tree(here)
  _check(call(train.main, f"--config={TINY}"), *fragments)
  assert tree(here) == before and not (here / "runs").exists()


class _Exploit:
  """What a pickle may do when it is loaded."""

  def __reduce__(self):
    return Path.touch, (Path("exploited"),)


def _bytes(save, **arrays):
  buffer = io.BytesIO()
  save(buffer, **arrays)
  return buffer.getvalue()


def _compressed_and_scratched():
  content = bytearray(_bytes(np.savez_compressed, a=np.arange(1000)))
  content[len(content) // 2] ^= 0xFF
  return bytes(content)


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"no archive",
    b"PK\x03\x04 broken",
    _bytes(np.savez, a=np.zeros((9, 4)))[:-50],
    _compressed_and_scratched(),
    _bytes(np.save, arr=np.zeros((9, 4))),
    pickle.dumps(_Exploit()),
  ],
  ids=["empty", "text", "zip?", "cut off", "scratched", "npy", "pickle"],
)
def test_file_that_is_no_npz_is_refused_and_not_unpickled(content, call, here):
  (here / "train.npz").write_bytes(content)
  ended = call(train.main, f"--config={TINY}")
  _check(ended, "train.npz is no .npz file of plain arrays")
  assert not (here / "exploited").exists() and not (here / "runs").exists()


def test_splits_of_different_shape_are_explained(call, here):
  np.savez(
    here / "test.npz", a=np.zeros((8, 6), "f4"), b=np.zeros((8, 4), "f4")
  )
  ended = call(train.main, f"--config={TINY}")
  _check(ended, "rows of the same shape", "(5,)", "(6,)")


# Workdirs


def test_workdir_of_another_config_names_what_differs(
  call, copy_of_tiny_folder, tree
):
  before = tree(copy_of_tiny_folder)
  ended = call(
    train.main,
    f"--config={TINY}",
    "--config.seed=7",
    "--config.loss.solver=svd",
  )
  _check(
    ended,
    "runs/tiny_config holds a run with another config",
    "seed: 0 there, 7 now",
    "loss.solver: 'gram' there, 'svd' now",
    "Choose another --workdir",
  )
  assert "batch_size" not in ended.err
  assert tree(copy_of_tiny_folder) == before


@pytest.mark.parametrize(
  ("workdir", "fragments"),
  [
    ("train.npz", ["cannot be a folder", "train.npz is a file"]),
    ("train.npz/run", ["train.npz/run cannot be a folder", "is a file"]),
    (".", ["is not empty and holds no run", "config.json"]),
    ("theirs", ["theirs holds no run", "config.json is something else"]),
    ("torn", ["torn/config.json cannot be read"]),
  ],
)
@pytest.mark.parametrize(
  "program", [train, evaluate], ids=["train", "evaluate"]
)
def test_folder_that_is_no_run_is_refused(
  workdir, fragments, program, call, here, tree
):
  (here / "theirs").mkdir()
  (here / "theirs" / "config.json").write_text('{"model_type": "other"}')
  (here / "torn").mkdir()
  (here / "torn" / "config.json").write_text('{"steps": 6')
  before = tree(here)
  arguments = [f"--config={TINY}"] if program is train else []
  ended = call(program.main, *arguments, f"--workdir={workdir}")
  if program is train or workdir in ("theirs", "torn"):
    _check(ended, *fragments)
  else:
    _check(ended, f"{workdir} holds no run: there is no config.json in it")
  assert tree(here) == before


def test_workdir_in_use_is_refused(call, copy_of_tiny_folder, tiny, tree):
  before = tree(copy_of_tiny_folder)
  with workdirs.claim(Path("runs") / "tiny_config", tiny):
    ended = call(train.main, f"--config={TINY}")
  _check(ended, "another process is training in runs/tiny_config", "wait")
  assert tree(copy_of_tiny_folder) == before


# Checkpoints


def _damage(workdir, *steps):
  for step in steps:
    for path in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _steps(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(
  call, copy_of_tiny_folder, tree
):
  workdir = copy_of_tiny_folder / "runs" / "tiny_config"
  _damage(workdir, *_steps(workdir))
  before = tree(copy_of_tiny_folder)
  ended = call(train.main, f"--config={TINY}")
  _check(ended, "none of the checkpoints", *map(str, _steps(workdir)), "copy")
  assert tree(copy_of_tiny_folder) == before


def test_evaluation_of_a_damaged_checkpoint_names_the_others(
  call, copy_of_tiny_folder, tree
):
  workdir = copy_of_tiny_folder / "runs" / "tiny_config"
  steps = _steps(workdir)
  _damage(workdir, steps[-1])
  before = tree(copy_of_tiny_folder)
  ended = call(evaluate.main, f"--workdir={workdir}")
  _check(ended, f"checkpoint of step {steps[-1]}", "is damaged", str(steps))
  assert tree(copy_of_tiny_folder) == before


def test_evaluation_of_what_is_not_there_is_explained(
  call, copy_of_tiny_folder, tree
):
  workdir = Path("runs") / "tiny_config"
  before = tree(copy_of_tiny_folder)
  _check(call(evaluate.main, "--workdir=runs/none"), "runs/none holds no run")
  for step in ("7", "-1", "newest", "1e2"):
    ended = call(evaluate.main, f"--workdir={workdir}", f"--step={step}")
    _check(ended, f"latest, best or one of {_steps(workdir)}, got {step!r}")
  ended = call(evaluate.main, f"--workdir={workdir}", "--output=train.npz")
  _check(ended, "train.npz")
  assert tree(copy_of_tiny_folder) == before
  shutil.rmtree(workdir / "checkpoints")
  _check(
    call(evaluate.main, f"--workdir={workdir}"),
    "runs/tiny_config has no checkpoints yet; train it first",
  )


def test_loss_that_is_not_finite_ends_with_a_code_of_its_own(
  call, here, write_arrays
):
  # Finite in the file; its square, which layer normalisation takes, is not.
  write_arrays(
    here, a=lambda rows: rows * np.float32(1e30 if len(rows) == 64 else 1)
  )
  ended = call(train.main, f"--config={TINY}", "--config.max_skipped=2")
  assert ended.code == cli.NON_FINITE
  assert ended.err.startswith("error: 2 steps in a row had no finite loss")
  assert "step 2" in ended.err and "Traceback" not in ended.err
  folder = here / "runs" / "tiny_config" / "failure" / "step_2"
  assert str(folder.relative_to(here)) in ended.err
  assert {path.name for path in folder.iterdir()} == {
    "batch.npz",
    "metrics.json",
    "state",
  }
  metrics = json.loads((folder / "metrics.json").read_text())
  assert not np.isfinite(metrics["loss"] * metrics["grad_norm"])


# The same in processes of their own.


def test_program_explains_mistakes(run, here, tree):
  before = tree(here)
  unknown = run("train", f"--config={TINY}", "--config.stpes=3", cwd=here)
  _check(unknown, "no key stpes; did you mean steps?")
  missing = run("train", "--config=nope.py", "--config.steps=3", cwd=here)
  _check(missing, "nope.py does not exist", "tri_modal.py")
  assert tree(here) == before and not (here / "runs").exists()


def test_program_refuses_the_workdir_of_another_config(
  run, copy_of_tiny_folder, tree
):
  before = tree(copy_of_tiny_folder)
  ended = run(
    "train", f"--config={TINY}", "--config.seed=7", cwd=copy_of_tiny_folder
  )
  _check(ended, "seed: 0 there, 7 now")
  assert tree(copy_of_tiny_folder) == before
