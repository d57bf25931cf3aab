"""Who may import whom: read from the source, and seen in fresh processes."""

import ast
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# For each room: the rooms and the packages that its files may import (the
# standard library apart), and the packages of which only functions may do so.
TABLE = {
  "losses": {"rooms": set(), "packages": {"jax"}, "lazily": set()},
  "encoders": {
    "rooms": set(),
    "packages": {"flax", "jax", "numpy"},
    "lazily": set(),
  },
  "weights": {
    "rooms": {"encoders"},
    "packages": {"flax", "jax", "numpy"},
    # What reads files.
    "lazily": {"safetensors", "torch"},
  },
  "data": {
    "rooms": set(),
    "packages": {
      "array_record",
      "av",
      "grain",
      "numpy",
      "PIL",
      "pyarrow",
      "scipy",
      "soundfile",
      "tensorflow_datasets",
      "tokenizers",
    },
    # absl has the flags of grain, jax tells the index of the process, and
    # TensorFlow and Beam only prepare data sets.
    "lazily": {"absl", "apache_beam", "av", "jax", "tensorflow"},
  },
  "training": {
    "rooms": {"losses"},
    "packages": {
      "chex",
      "flax",
      "grain",
      "jax",
      "numpy",
      "optax",
      "orbax",
      "tensorboardX",
      "tensorstore",
      "tqdm",
    },
    "lazily": set(),
  },
  "evaluation": {
    "rooms": {"losses"},
    "packages": {"jax", "matplotlib", "numpy", "sklearn", "threadpoolctl"},
    "lazily": set(),
  },
  "experiments": {
    "rooms": {
      "data",
      "encoders",
      "evaluation",
      "experiments",
      "losses",
      "training",
      "weights",
    },
    "packages": {
      "PIL",
      "absl",
      "flax",
      "jax",
      "ml_collections",
      "numpy",
      "optax",
      "pyarrow",
      "scipy",
      "tqdm",
    },
    # They only take part in benchmarks.
    "lazily": {"av", "cv2", "decord", "torch", "torchcodec"},
  },
}

# What must not be loaded by a program that only imports the loss.
NOT_FOR_THE_LOSS = (
  "absl",
  "array_record",
  "chex",
  "flax",
  "grain",
  "matplotlib",
  "ml_collections",
  "optax",
  "orbax",
  "sklearn",
  "soundfile",
  "tensorboardX",
  "tensorflow",
  "tensorflow_datasets",
  "tqdm",
)


def folder(room):
  return ROOT / room if room == "experiments" else ROOT / "pmrl_jax" / room


ROOMS = [room for room in TABLE if (folder(room) / "__init__.py").exists()]


def imports(tree, package):
  """Yields `(line, dotted name, is inside a function)` of all imports."""
  inside = {
    id(node)
    for function in ast.walk(tree)
    if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    for node in ast.walk(function)
  }
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = [node.module] if node.module else []
      if node.level:
        base = package.split(".")[: 1 - node.level or None] + base
      names = [".".join([*base, alias.name]) for alias in node.names]
    else:
      continue
    for name in names:
      yield node.lineno, name, id(node) in inside


def violations(room, source, package):
  """Returns what in a file's source its room may not import."""
  rules, found = TABLE[room], []
  for line, name, is_lazy in imports(ast.parse(source), package):
    top, _, rest = name.partition(".")
    inner = rest.partition(".")[0]
    if top == "pmrl_jax":
      # Besides its rooms the package holds nothing but its version.
      is_room = (ROOT / "pmrl_jax" / inner).is_dir() or inner in TABLE
      allowed = not inner or not is_room or inner in rules["rooms"] | {room}
    elif top == "experiments":
      allowed = room == "experiments"
    else:
      allowed = (
        top in sys.stdlib_module_names
        or top in rules["packages"]
        or (is_lazy and top in rules["lazily"])
      )
    if not allowed:
      found.append(f"line {line}: {name}")
  return found


def test_every_room_has_its_line_in_the_table():
  rooms = {
    path.name
    for path in (ROOT / "pmrl_jax").iterdir()
    if any(path.glob("*.py"))
  }
  assert rooms <= set(TABLE)
  assert "losses" in ROOMS


@pytest.mark.parametrize("room", ROOMS)
def test_source_imports_only_what_the_table_allows(room):
  found = {}
  for path in sorted(folder(room).rglob("*.py")):
    name = path.relative_to(ROOT)
    package = ".".join(name.parent.parts)
    found[str(name)] = violations(room, path.read_text("utf-8"), package)
  assert found
  assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
  "room,source",
  [
    ("losses", "import numpy as np"),
    ("losses", "from flax import linen"),
    ("losses", "def f():\n  from pmrl_jax import training"),
    ("losses", "from ..training import step"),
    ("losses", "from .. import evaluation"),
    ("encoders", "from pmrl_jax.losses import pmrl_loss"),
    ("training", "import pmrl_jax.encoders.vision"),
    ("training", "from ml_collections import ConfigDict"),
    ("evaluation", "from experiments import build"),
    ("data", "import jax"),
    ("data", "import tensorflow as tf"),
    ("data", "if True:\n  import tensorflow as tf"),
    ("experiments", "import tensorflow_datasets as tfds"),
  ],
)
def test_a_forbidden_import_is_found(room, source):
  package = "experiments" if room == "experiments" else f"pmrl_jax.{room}"
  assert len(violations(room, source, package)) == 1


@pytest.mark.parametrize(
  "room,source",
  [
    ("losses", "import math\nimport jax.numpy as jnp"),
    ("losses", "from . import _checks\nfrom ._checks import check_ids"),
    ("losses", "from pmrl_jax.version import __version__"),
    ("training", "from pmrl_jax import losses"),
    ("data", "def f():\n  import jax"),
    ("experiments", "from pmrl_jax import data\nfrom absl import flags"),
  ],
)
def test_an_allowed_import_is_not_found(room, source):
  package = "experiments" if room == "experiments" else f"pmrl_jax.{room}"
  assert violations(room, source, package) == []


def modules_after(statement):
  """Returns all modules that a fresh process holds after a statement."""
  program = f"import json, sys; {statement}; print(json.dumps([*sys.modules]))"
  process = subprocess.run(
    [sys.executable, "-c", program],
    cwd=ROOT,
    env={**os.environ, "PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
  )
  assert process.returncode == 0, process.stderr
  return set(json.loads(process.stdout.splitlines()[-1]))


def test_importing_the_losses_loads_jax_alone():
  modules = modules_after("import pmrl_jax.losses")
  assert "jax" in modules
  assert not {m for m in modules if m.partition(".")[0] in NOT_FOR_THE_LOSS}


@pytest.mark.parametrize(
  "room", [room for room in ROOMS if room not in ("losses", "experiments")]
)
def test_importing_a_room_loads_no_room_it_may_not_import(room):
  modules = modules_after(f"import pmrl_jax.{room}")
  loaded = {other for other in TABLE if f"pmrl_jax.{other}" in modules}
  assert loaded <= TABLE[room]["rooms"] | {room}
  assert not {"experiments", "tensorflow", "ml_collections"} & modules
