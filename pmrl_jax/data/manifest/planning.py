"""Which rows of a manifest go into which file, and whose folder it is."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import soundfile

from pmrl_jax.data.manifest.encoding import Encoding
from pmrl_jax.data.manifest.features import features_of, find_array_shapes
from pmrl_jax.data.manifest.manifest import Manifest
from pmrl_jax.data.manifest.metadata import CHECKSUMS
from pmrl_jax.data.manifest.shards import (
  JOURNAL,
  Shard,
  Work,
  hash_file,
  read_journal,
  write_json,
)

_PLAN = "plan.json"
_ROWS_PER_SHARD = 256
_MAX_SHARDS = 1024
# What a change of may change the bytes of a shard.
_PACKAGES = ("array-record", "av", "numpy", "pillow", "protobuf", "soundfile")


def plan(
  manifest: Manifest,
  output: str | os.PathLike[str],
  *,
  encoding: Encoding,
  name: str | None = None,
  num_shards: int | None = None,
) -> tuple[Work, list[Shard]]:
  """Decides which rows go into which file; see `build`.

  Raises:
    ValueError: if a name or a number is wrong.
  """
  name = name or re.sub(r"\W+", "_", manifest.path.stem.lower()).strip("_")
  splits = manifest.splits or ["train"] * len(manifest)
  for word in (name, *dict.fromkeys(splits)):
    if not re.fullmatch(r"[A-Za-z]\w*", word, re.ASCII):
      raise ValueError(
        "expected letters, digits and _ in the names of data sets and splits, "
        f"got {word!r}"
      )
  if num_shards is not None and num_shards < 1:
    raise ValueError(f"num_shards must be at least 1, got {num_shards}")
  rows: dict[str, list[int]] = {}
  for row, split in enumerate(splits):
    rows.setdefault(split, []).append(row)
  shards = []
  for split, members in rows.items():
    size = len(members)
    count = num_shards or min(-(-size // _ROWS_PER_SHARD), _MAX_SHARDS)
    count = min(count, size)
    shards += [
      Shard(
        split,
        index,
        count,
        members[index * size // count : (index + 1) * size // count],
      )
      for index in range(count)
    ]
  # Checks the names of the modalities before any header is read.
  features_of(manifest.kinds)
  shapes = find_array_shapes(manifest)
  folder = pathlib.Path(os.path.abspath(output))
  return Work(manifest, folder, name, encoding, shapes), shards


@contextlib.contextmanager
def claim(work: Work, shards: Sequence[Shard]) -> Iterator[set[str]]:
  """Takes a folder for a data set, and keeps other processes out.

  Yields:
    The names of the files that are done, and sound.

  Raises:
    ValueError: if the folder holds something else, or is taken.
  """
  _check_folder(work.output)
  (work.output / JOURNAL).mkdir(parents=True, exist_ok=True)
  with (work.output / JOURNAL / "lock").open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ValueError(
        f"another process is building in {work.output}; wait for it, or choose "
        "another folder"
      ) from None
    _check_plan(work, shards)
    for path in (work.output / JOURNAL).glob("*.tmp"):
      path.unlink()  # of a process that was killed
    # What could not be read may have been repaired since.
    yield {
      file
      for file, shard in read_journal(work.output).items()
      if not shard.failures
    }


def _check_folder(output: pathlib.Path) -> None:
  if output.is_file():
    raise ValueError(f"expected a folder to write to, got the file {output}")
  if (output / JOURNAL).is_dir() or not output.exists():
    return
  if (output / CHECKSUMS).exists():
    raise ValueError(
      f"{output} holds a data set that is finished; delete it to build it "
      "anew, or choose another folder"
    )
  if any(output.iterdir()):
    raise ValueError(f"{output} is not empty; choose a new folder")


def _check_plan(work: Work, shards: Sequence[Shard]) -> None:
  """Refuses to go on with a folder that was begun in another way."""
  path = work.output / JOURNAL / _PLAN
  now = json.loads(json.dumps(_as_json(work, shards)))
  if not path.exists():
    write_json(path, now)
    return
  begun = json.loads(path.read_text("utf-8"))
  different = [
    f"{key} was {begun.get(key)!s:.80}, is {now[key]!s:.80}"
    for key in now
    if begun.get(key) != now[key]
  ]
  if different:
    raise ValueError(
      f"{work.output} was begun in another way: {'; '.join(different)}. Go on "
      "as it was begun, delete it, or choose another folder"
    )


def _as_json(work: Work, shards: Sequence[Shard]) -> dict[str, Any]:
  return {
    "name": work.name,
    "manifest": hash_file(work.manifest.path),
    "num_rows": len(work.manifest),
    "root": str(work.manifest.root),
    "kinds": work.manifest.kinds,
    "array_shapes": dict(work.array_shapes),
    **dataclasses.asdict(work.encoding),
    "num_shards": {shard.split: shard.num_shards for shard in shards},
    "versions": _versions(work.manifest.kinds),
  }


def _versions(kinds: Mapping[str, str]) -> dict[str, str]:
  versions = {"libsndfile": soundfile.__libsndfile_version__}
  for package in _PACKAGES:
    # PyAV is missing where nothing needs it.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[package] = importlib.metadata.version(package)
  return versions
