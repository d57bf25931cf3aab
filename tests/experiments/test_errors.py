"""Mistakes in flags and configs: one message, nothing is written."""

from pathlib import Path

import pytest

from experiments import train

CONFIGS = Path(train.__file__).parent / "configs"
TINY = Path(__file__).with_name("tiny_config.py")
DIGITS = CONFIGS / "tri_modal.py"

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
    ["'bfloat16', 'float16', 'float32'", "got 'float8'"],
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
    ["'multimodal_digits', 'tfds', 'mixture'], got 'mnist'"],
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
def test_mistake_in_an_override_is_explained(
  name, call, here, tree, check_mistake
):
  overrides, fragments = OVERRIDES[name]
  before = tree(here)
  ended = call(
    train.main, f"--config={TINY}", *(f"--config.{o}" for o in overrides)
  )
  check_mistake(ended, *fragments)
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
def test_mistake_about_the_digits_is_explained(
  override, fragments, call, here, check_mistake
):
  ended = call(train.main, f"--config={DIGITS}", f"--config.{override}")
  check_mistake(ended, *fragments)
  assert not (here / "runs").exists()


# The body of get_config() after `config` is the tiny one.
CONFIG_CODE = {
  "option that the compiler does not have": (
    "config.compiler_options = {'xla_nope': 1}",
    ["cpu does not take the option xla_nope=1", "config.compiler_options"],
  ),
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
def test_mistake_in_a_config_file_is_explained(
  name, call, here, tree, check_mistake
):
  code, fragments = CONFIG_CODE[name]
  (here / "mine.py").write_text(
    "import runpy\n\n\ndef get_config():\n"
    f"  config = runpy.run_path({str(TINY)!r})['get_config']()\n"
    f"  {code}\n"
    "  return config\n"
  )
  before = tree(here)
  check_mistake(call(train.main, "--config=mine.py"), *fragments)
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
  text, fragments, call, here, check_mistake
):
  (here / "mine.py").write_text(text)
  check_mistake(call(train.main, "--config=mine.py"), *fragments)


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
def test_mistake_in_the_flags_is_explained(
  arguments, fragments, call, here, check_mistake
):
  check_mistake(call(train.main, *arguments), *fragments)
  assert not (here / "runs").exists()


def test_debug_shows_where_a_mistake_was_found(call, here):
  with pytest.raises(ValueError, match="max_skipped must be at least 1"):
    call(train.main, f"--config={TINY}", "--debug", "--config.max_skipped=0")
