"""A manifest -> a TFDS data set: ArrayRecord shards that train fast.

The folder that `build` fills:

- `NAME-SPLIT.array_record-00000-of-00004`, ...: the shards, rows in order
- `dataset_info.json`, `features.json`: what TFDS needs to read them
- `metadata.json`: the modalities and their kinds
- `checksums.json`: the SHA-256 of every file, see `verify`
- `bad_examples.jsonl`, if anything could not be read: what, and why
- `.building/`, while it is not finished: what is done so far
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from pmrl_jax.data.failures import FailureLog
from pmrl_jax.data.manifest.encoding import Encoding
from pmrl_jax.data.manifest.manifest import Manifest
from pmrl_jax.data.manifest.metadata import write_metadata
from pmrl_jax.data.manifest.parallel import run_tasks
from pmrl_jax.data.manifest.planning import claim, plan
from pmrl_jax.data.manifest.shards import (
  JOURNAL,
  Shard,
  Work,
  read_journal,
  write_shard,
)

BAD_EXAMPLES = "bad_examples.jsonl"

Progress = Callable[[int, int], None]  # rows that are done, rows in all


class Built(NamedTuple):
  """A data set that has been built."""

  folder: pathlib.Path
  num_examples: dict[str, int]  # of every split
  num_bytes: int  # of all shards
  num_bad: int  # examples of which something is absent for being broken


def build(
  manifest: Manifest,
  output: str | os.PathLike[str],
  *,
  encoding: Encoding | None = None,
  name: str | None = None,
  num_shards: int | None = None,
  workers: int | None = None,
  max_bad: float = 0.01,
  progress: Progress | None = None,
) -> Built:
  """Writes a manifest as a TFDS data set, read without TensorFlow.

  Stopped or killed, the same call goes on where it was, and gives the same
  files to the last byte. So does any number of workers.

  All rows are written, in order. Of a row that is broken, the modality that
  cannot be read is absent, as if its cell were empty, and listed in
  `bad_examples.jsonl`: no example is ever left out or replaced.

  Args:
    manifest: the manifest. Its column `split`, if there is one, gives the
      splits; without one all rows are in "train".
    output: the folder; new, or begun by the same call.
    encoding: how media are stored, see `Encoding`.
    name: of the data set; by default that of the manifest's file.
    num_shards: how many files every split has; by default one for 256 rows,
      1024 at most.
    workers: how many processes; by default one for each core.
    max_bad: the share of rows, 0 to 1, that may be broken.
    progress: is told the numbers of rows that are done and of all.

  Returns:
    What was built.

  Raises:
    TooManyFailuresError: if more rows are broken. What is done is kept: shards
      with broken rows are tried again by the next call.
    ValueError: if the folder holds something else, or an argument is wrong.
  """
  work, shards = plan(
    manifest,
    output,
    encoding=encoding or Encoding(),
    name=name,
    num_shards=num_shards,
  )
  total = sum(len(shard.rows) for shard in shards)
  with claim(work, shards) as done:
    log = _failure_log(work.output, total, max_bad)
    todo = [shard for shard in shards if shard.file_name(work.name) not in done]
    num_done = total - sum(len(shard.rows) for shard in todo)
    if len(todo) == 1:
      workers = 1
    if progress is not None:
      progress(num_done, total)
    results = run_tasks(write_shard, work, todo, workers=workers)
    with contextlib.closing(results):
      for written in results:
        log.add(written.failures)
        num_done += written.num_examples
        if progress is not None:
          progress(num_done, total)
    return finish(work, shards, max_bad=max_bad)


def finish(work: Work, shards: Sequence[Shard], *, max_bad: float) -> Built:
  """Writes what belongs to all shards, once all are written.

  Args:
    work: what was written, and where.
    shards: all of them.
    max_bad: see `build`.

  Returns:
    What was built.

  Raises:
    TooManyFailuresError: if more rows are broken.
  """
  names = [shard.file_name(work.name) for shard in shards]
  journal = read_journal(work.output)
  missing = [name for name in names if name not in journal]
  if missing:
    raise RuntimeError(
      f"{len(missing)} shards have not been written to {work.output}, such as "
      f"{missing[0]}; do all workers see this folder?"
    )
  written = [journal[name] for name in names]
  total = sum(shard.num_examples for shard in written)
  log = _failure_log(work.output, total, max_bad)
  log.add(failure for shard in written for failure in shard.failures)
  write_metadata(work, written)
  shutil.rmtree(work.output / JOURNAL)
  return Built(
    work.output,
    _sums((shard.split, shard.num_examples) for shard in written),
    sum((work.output / shard.file).stat().st_size for shard in written),
    log.num_bad,
  )


def _sums(items: Iterable[tuple[str, int]]) -> dict[str, int]:
  sums: dict[str, int] = {}
  for key, number in items:
    sums[key] = sums.get(key, 0) + number
  return sums


def _failure_log(
  output: pathlib.Path, total: int, max_bad: float
) -> FailureLog:
  """A log of this session; files may have been repaired since the last."""
  (output / BAD_EXAMPLES).unlink(missing_ok=True)
  return FailureLog(
    output / BAD_EXAMPLES, num_examples=total, max_share=max_bad
  )
