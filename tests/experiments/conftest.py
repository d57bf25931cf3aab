"""Runs programs, in this process and in others, on data that costs little."""

import fcntl
import os
import runpy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import threadpoolctl
from absl.testing import flagsaver

from experiments import cli

ROOT = Path(__file__).parents[2]
TINY = Path(__file__).with_name("tiny_config.py")


class Ended(NamedTuple):
  """How a program ended."""

  code: int
  out: str
  err: str


@pytest.fixture(autouse=True, scope="module")
def quick_programs():
  """Makes the programs that run in this process cost less.

  Most of it is compiling. And tests run side by side, where threads that spin
  steal each other's time.
  """
  jax.config.update("jax_disable_most_optimizations", True)
  with threadpoolctl.threadpool_limits(1):
    yield
  jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
  """A folder for the session, the same in all processes of pytest-xdist."""
  folder = tmp_path_factory.getbasetemp()
  return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def once(base):
  """`once(name, fill)` fills a folder once for all processes of a session."""

  def make(name, fill):
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        fill(folder)
        done.touch()
    return folder

  return make


@pytest.fixture(scope="session")
def environment(once):
  """The environment of a program in a process of its own."""

  def forbid_tensorflow(folder):
    (folder / "tensorflow").mkdir()
    (folder / "tensorflow" / "__init__.py").write_text(
      "import pathlib\n"
      "pathlib.Path(__file__).with_name('imported').touch()\n"
      "raise ImportError('a run must not need TensorFlow')\n"
    )

  return os.environ | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "",
    "PYTHONPATH": os.pathsep.join(
      [
        str(once("no_tensorflow", forbid_tensorflow)),
        str(ROOT),
        os.environ.get("PYTHONPATH", ""),
      ]
    ),
    # Programs that differ in nothing but their past compile once.
    "JAX_COMPILATION_CACHE_DIR": str(once("compiled", lambda folder: None)),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "OMP_NUM_THREADS": "1",  # see `quick_programs`
  }


@pytest.fixture(scope="session")
def start(environment):
  """`start("train", *arguments, cwd=...)` starts a program in a process."""

  def start_program(program, *arguments, cwd=ROOT):
    return subprocess.Popen(
      [sys.executable, "-m", f"experiments.{program}", *arguments],
      cwd=cwd,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  return start_program


@pytest.fixture(scope="session")
def run(start):
  """`run("train", *arguments, cwd=...)` runs a program in a process."""

  def run_program(program, *arguments, cwd=ROOT):
    process = start(program, *arguments, cwd=cwd)
    try:
      out, err = process.communicate(timeout=200)
    finally:
      process.kill()
    return Ended(process.returncode, out, err)

  return run_program


@pytest.fixture
def call(monkeypatch, capfd):
  """`call(train.main, *arguments)` runs a program in this process."""

  def call_program(main, *arguments):
    monkeypatch.setattr(sys, "argv", ["program", *map(str, arguments)])
    # The last config file: the next one would be loaded on top of it.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    capfd.readouterr()
    with (
      flagsaver.flagsaver(),
      warnings.catch_warnings(),
      pytest.raises(SystemExit) as ended,
    ):
      # This is how ml_collections loads a config.
      warnings.filterwarnings("ignore", "the load_module", DeprecationWarning)
      cli.run(main)
    return Ended(ended.value.code or 0, *capfd.readouterr())

  return call_program


@pytest.fixture(scope="session")
def check_mistake():
  """Checks that a program ended with one message that holds `fragments`."""

  def check(ended, *fragments):
    assert ended.code == cli.MISTAKE, ended
    assert ended.err.startswith("error: ")
    assert ended.err.count("error: ") == 1
    assert "Traceback" not in ended.err and ended.out == ""
    for fragment in fragments:
      assert fragment in ended.err

  return check


@pytest.fixture(scope="session")
def write_arrays():
  """`write_arrays(folder, **changes)` writes the data of `tiny_config.py`.

  Two modalities of the same 4 numbers. `changes` replace arrays of train.npz
  and test.npz; a function is called with the rows `[instance, 4]`.
  """

  def write(folder, **changes):
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 5)).astype(np.float32)
    for name, num_rows in (("train", 64), ("test", 32)):
      rows = rng.normal(size=(num_rows, 4)).astype(np.float32)
      arrays = {"a": rows @ mixing, "b": rows}
      for key, value in changes.items():
        arrays[key] = value(rows) if callable(value) else value
      np.savez(folder / f"{name}.npz", **arrays)

  return write


@pytest.fixture(scope="session")
def tiny_folder(once, run, write_arrays):
  """A working folder with a run of `tiny_config.py` that nothing disturbed.

  Do not change it: take a `copy_of_tiny_folder`. What the run said is in
  out.txt and err.txt.
  """

  def fill(folder):
    write_arrays(folder)
    ended = run("train", f"--config={TINY}", cwd=folder)
    assert ended.code == 0, ended.err
    (folder / "out.txt").write_text(ended.out)
    (folder / "err.txt").write_text(ended.err)

  return once("tiny", fill)


@pytest.fixture
def copy_of_tiny_folder(tiny_folder, tmp_path, monkeypatch):
  """A copy of `tiny_folder` as the working folder."""
  folder = tmp_path / "copy"
  shutil.copytree(tiny_folder, folder)
  monkeypatch.chdir(folder)
  return folder


@pytest.fixture
def here(tmp_path, monkeypatch, write_arrays):
  """A working folder of its own, with the data of `tiny_config.py`."""
  write_arrays(tmp_path)
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.fixture
def tiny():
  """The config in `tiny_config.py`."""
  return runpy.run_path(str(TINY))["get_config"]()


@pytest.fixture(scope="session")
def tree():
  """`tree(folder)` gives the bytes of every file in a folder, by its path."""

  def read(folder):
    return {
      path.relative_to(folder).as_posix(): path.read_bytes()
      for path in sorted(folder.rglob("*"))
      if path.is_file()
    }

  return read


@pytest.fixture(scope="session")
def saved_state():
  """`saved_state(run, step)` gives the arrays of a checkpoint, as saved."""

  def restore(folder, step):
    path = folder.absolute() / "checkpoints" / str(step) / "state"
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
      names = checkpointer.metadata(path).item_metadata.tree
      as_numpy = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), names
      )
      return checkpointer.restore(
        path, args=ocp.args.PyTreeRestore(restore_args=as_numpy)
      )

  return restore
