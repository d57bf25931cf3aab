"""Where finished trainings are kept: `results.json`, written after each."""

import contextlib
import fcntl
import json
import os
import platform
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import workdir as workdirs

_RESULTS = "results.json"
_PENDING = "pending"
_LOCK = ".lock"
# Settings with an entry for each of what there may be more the next time.
_GROWING = ("data", "losses")


class Key(NamedTuple):
  """Which training."""

  view_set: str
  loss: str
  temperature: float
  seed: int


class Store:
  """The results of a comparison in its folder."""

  def __init__(self, folder: Path, content: dict[str, Any]):
    """Keeps what `open_store` read or made."""
    self.folder = folder
    self._content = content
    self._runs = {_key(run): run for run in content["runs"]}

  @property
  def runs(self) -> Mapping[Key, Mapping[str, Any]]:
    """All finished trainings."""
    return self._runs

  @property
  def revisions(self) -> list[str]:
    """The git revisions that the trainings come from."""
    sessions = self._content["sessions"]
    used = {run["session"] for run in self._runs.values()}
    return sorted({str(sessions[i]["git_revision"]) for i in used})

  def add(self, key: Key, run: Mapping[str, Any]) -> None:
    """Keeps a training, or more of it, in memory and at once on disk."""
    session = len(self._content["sessions"]) - 1
    self._runs[key] = {"session": session, **key._asdict(), **run}
    self.save()

  def save(self, **more: Any) -> None:
    """Writes `results.json`, with more entries if given."""
    self._content |= more
    self._content["runs"] = list(self._runs.values())
    workdirs.write_atomically(
      self.folder / _RESULTS, json.dumps(self._content, indent=1) + "\n"
    )

  def keep_embeddings(
    self, key: Key, embeddings: Mapping[str, np.ndarray]
  ) -> None:
    """Keeps embeddings until it is known whether they will be measured."""
    path = self._pending(key)
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
      np.savez(file, **embeddings)  # type: ignore[arg-type]
    partial.replace(path)

  def kept_embeddings(self, key: Key) -> dict[str, np.ndarray] | None:
    """The embeddings that were kept; None if they are lost."""
    try:
      with self._pending(key).open("rb") as file, np.load(file) as content:
        return dict(content)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):
      return None

  def drop_embeddings(self, key: Key) -> None:
    """Removes kept embeddings, if there are any."""
    self._pending(key).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty, or not there
      (self.folder / _PENDING).rmdir()

  def _pending(self, key: Key) -> Path:
    name = f"{key.view_set}-{key.loss}-{key.temperature:g}-{key.seed}.npz"
    return self.folder / _PENDING / name


@contextlib.contextmanager
def open_store(folder: Path, settings: Mapping[str, Any]) -> Iterator[Store]:
  """Opens the folder of a comparison, and keeps other processes out.

  Args:
    folder: The folder; made if absent.
    settings: What all trainings in it have in common, with a hash of every
      data set and loss in its entries "data" and "losses".

  Yields:
    The store, with what finished before.

  Raises:
    ValueError: If the folder holds something else or trainings with other
      settings, or another process is at work in it.
  """
  for path in (folder, *folder.parents):
    if path.is_file():
      raise ValueError(
        f"the workdir {folder} cannot be a folder, since {path} is a file; "
        "choose another --workdir"
      )
  content = _read(folder)
  _check_settings(folder, content["settings"] or settings, settings)
  folder.mkdir(parents=True, exist_ok=True)
  with (folder / _LOCK).open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"another process is at work in {folder}; wait for it, or choose "
        "another --workdir"
      ) from None
    # Again: another process may have worked on it until a moment ago.
    content = _read(folder)
    _check_settings(folder, content["settings"] or settings, settings)
    known = content["settings"] or settings
    content["settings"] = {
      **settings,
      **{name: known[name] | settings[name] for name in _GROWING},
    }
    content["sessions"].append(_session())
    store = Store(folder, content)
    store.save()
    yield store


def _read(folder: Path) -> dict[str, Any]:
  """What a folder holds; nothing, if it is new."""
  path = folder / _RESULTS
  if not path.exists():
    leftovers = {_LOCK, _PENDING, _RESULTS + ".partial"}
    others = sorted(
      {p.name for p in folder.iterdir()} - leftovers if folder.exists() else ()
    )
    if others:
      raise ValueError(
        f"the workdir {folder} holds something else and no {_RESULTS}: "
        f"{', '.join(others[:5])}; choose another --workdir"
      )
    return {"settings": None, "sessions": [], "runs": []}
  try:
    content = json.loads(path.read_text())
    for run in content["runs"]:
      content["sessions"][run["session"]]["git_revision"], _key(run)
    for name in _GROWING:
      dict(content["settings"][name])
  except (ValueError, KeyError, TypeError, IndexError) as error:
    raise ValueError(
      f"{path} is damaged or something else: {error!r}; move it away, or "
      "choose another --workdir"
    ) from None
  return content


def _check_settings(
  folder: Path, stored: Mapping[str, Any], settings: Mapping[str, Any]
) -> None:
  """Raises if trainings with these settings do not belong in the folder.

  Data sets and losses are looked at only if both have them: there may be more
  of them from one call to the next.
  """
  theirs, ours = _flat(stored), _flat(settings)
  both = theirs.keys() & ours.keys()
  differing = [
    f"{name}: {theirs[name]!r} there, {ours[name]!r} now"
    for name in sorted(both)
    if theirs[name] != ours[name]
  ]
  if differing:
    raise ValueError(
      f"the workdir {folder} holds trainings with other settings:\n  "
      + "\n  ".join(differing)
      + "\nChoose another --workdir, or go back to those settings to resume"
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Entries by their dotted names."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{name}.")
    else:
      flat[f"{prefix}{name}"] = value
  return flat


def _key(run: Mapping[str, Any]) -> Key:
  return Key(*(run[field] for field in Key._fields))


def _session() -> dict[str, Any]:
  """What this process runs on."""
  return {
    "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    "command": sys.argv,
    "git_revision": workdirs.git_revision(),
    "python": platform.python_version(),
    "versions": workdirs.versions(),
    "machine": platform.platform(),
    "devices": workdirs.devices(),
    "cpu_cores": os.cpu_count(),
  }
