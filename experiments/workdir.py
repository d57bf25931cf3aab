"""The folder of a run: whose it is, who works in it, what made it."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

import pmrl_jax
from experiments.cli import leaves

_CONFIG = "config.json"
_SECTIONS = {"checkpoint", "data", "evaluation", "loss", "model", "optimizer"}
_SESSIONS = "sessions.jsonl"
_PACKAGES = (
  "jax",
  "jaxlib",
  "flax",
  "optax",
  "orbax-checkpoint",
  "grain",
  "tensorflow-datasets",
  "numpy",
  "scikit-learn",
)


@contextlib.contextmanager
def claim(workdir: Path, config: ml_collections.ConfigDict) -> Iterator[None]:
  """Takes a folder for a run, and keeps others out while it goes on.

  Args:
    workdir: The folder; made if absent.
    config: The run's config, saved in it.

  Raises:
    ValueError: If the folder belongs to a run with another config, holds
      something else, or another process is at work in it.
  """
  check(workdir, config)
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / ".lock").open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"another process is training in {workdir}; wait for it, or choose "
        "another --workdir"
      ) from None
    if not (workdir / _CONFIG).exists():
      write_atomically(workdir / _CONFIG, config.to_json(indent=2) + "\n")
    yield


def check(workdir: Path, config: ml_collections.ConfigDict) -> None:
  """Checks that a folder is free or belongs to a run with this config.

  Raises:
    ValueError: If not; names the keys that differ.
  """
  for path in (workdir, *workdir.parents):
    if path.is_file():
      raise ValueError(
        f"the workdir {workdir} cannot be a folder, since {path} is a file; "
        "choose another --workdir"
      )
  if not workdir.exists() or not any(workdir.iterdir()):
    return
  if not (workdir / _CONFIG).exists():
    if {path.name for path in workdir.iterdir()} <= {
      ".lock",
      _CONFIG + ".partial",
    }:
      return
    raise ValueError(
      f"the workdir {workdir} is not empty and holds no run (it has no "
      f"{_CONFIG}); choose another --workdir"
    )
  saved = dict(leaves(read_config(workdir)))
  # Through JSON, so that tuples and lists are the same.
  ours = dict(leaves(ml_collections.ConfigDict(json.loads(config.to_json()))))
  differing = [
    f"{key}: {saved.get(key, 'absent')!r} there, {ours.get(key, 'absent')!r} "
    "now"
    for key in sorted(saved | ours)
    if saved.get(key, "absent") != ours.get(key, "absent")
    and not key.startswith("mesh.")  # a run may go on on other devices
  ]
  if differing:
    raise ValueError(
      f"the workdir {workdir} holds a run with another config:\n  "
      + "\n  ".join(differing)
      + "\nChoose another --workdir, or go back to that config to resume"
    )


def has_checkpoint(workdir: Path) -> bool:
  """Whether there is a checkpoint that a run goes on from."""
  return any(
    path.name.isdigit() for path in (workdir / "checkpoints").glob("*")
  )


def read_config(workdir: Path) -> ml_collections.ConfigDict:
  """The config of the run in a folder.

  Raises:
    FileNotFoundError: If there is no run.
    ValueError: If its config cannot be read.
  """
  path = workdir / _CONFIG
  if not path.is_file():
    raise FileNotFoundError(
      f"{workdir} holds no run: there is no {_CONFIG} in it"
    )
  try:
    config = json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path} cannot be read: {error}") from None
  if not isinstance(config, dict) or not _SECTIONS <= set(config):
    raise ValueError(
      f"{workdir} holds no run: its {_CONFIG} is something else (a run's has "
      f"{', '.join(sorted(_SECTIONS))})"
    )
  return ml_collections.ConfigDict(config)


def log_session(workdir: Path, step: int, notes: list[str]) -> None:
  """Adds what this process runs on to the run's `sessions.jsonl`.

  Args:
    workdir: The run's folder.
    step: The step from which it goes on.
    notes: What is worth knowing about the data or the checkpoints.
  """
  row = {
    "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "from_step": step,
    "command": sys.argv,
    "git_revision": git_revision(),
    "python": platform.python_version(),
    "versions": versions(),
    "devices": devices(),
    "processes": jax.process_count(),
    "cpu_cores": os.cpu_count(),
    "notes": notes,
  }
  with (workdir / _SESSIONS).open("a") as file:
    file.write(json.dumps(row) + "\n")


def versions() -> dict[str, str]:
  """The versions of the packages that a result may depend on."""
  packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
  return {"pmrl_jax": pmrl_jax.__version__, **packages}


def devices() -> str:
  """The devices in words, as `8 x cpu`."""
  kinds = [device.device_kind for device in jax.devices()]
  return ", ".join(
    f"{kinds.count(kind)} x {kind}" for kind in sorted(set(kinds))
  )


def git_revision() -> str | None:
  """The commit of the code, with `-dirty` if it was changed; None outside."""
  try:
    done = subprocess.run(
      ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
      cwd=Path(__file__).parent,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def write_parameter_table(path: Path, params: Any) -> int:
  """Writes names, shapes and sizes of the parameters; returns their number."""
  flat = jax.tree_util.tree_flatten_with_path(params)[0]
  rows = [
    (
      jax.tree_util.keystr(name, simple=True, separator="/"),
      "x".join(map(str, value.shape)),
      str(value.dtype),
      f"{value.size:,}",
    )
    for name, value in flat
  ]
  total = sum(value.size for _, value in flat)
  rows = [("parameter", "shape", "dtype", "size"), *rows]
  rows.append(("total", "", "", f"{total:,}"))
  widths = [max(map(len, column)) for column in zip(*rows)]
  lines = (
    "  ".join(
      [cell.ljust(width) for cell, width in zip(row[:-1], widths)]
      + [row[-1].rjust(widths[-1])]
    )
    for row in rows
  )
  write_atomically(path, "\n".join(lines) + "\n")
  return total


def write_atomically(path: Path, text: str) -> None:
  """Writes a file so that a kill leaves the old content or the new."""
  partial = path.with_name(path.name + ".partial")
  partial.write_text(text)
  partial.replace(path)
