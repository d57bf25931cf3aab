"""Looks through a whole manifest, however long, in little memory."""

from __future__ import annotations

import contextlib
import difflib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmrl_jax.data.manifest.cells import CellTyper
from pmrl_jax.data.manifest.files import check_file
from pmrl_jax.data.manifest.inference import find_kinds
from pmrl_jax.data.manifest.kinds import FILE_KINDS, RESERVED
from pmrl_jax.data.manifest.manifest import (
  find_duplicates,
  find_root,
  read_typed,
)
from pmrl_jax.data.manifest.parallel import run_tasks
from pmrl_jax.data.manifest.paths import resolve
from pmrl_jax.data.manifest.reading import (
  Problem,
  as_path,
  count_rows,
  read_columns,
)
from pmrl_jax.data.manifest.report import ColumnReport, ManifestReport

_MAX_SPLITS = 100  # more are ids by mistake

Progress = Callable[[int, int], None]  # rows that are done, rows in all


def validate(
  path: str | os.PathLike[str],
  *,
  kinds: Mapping[str, str | None] | None = None,
  root: str | os.PathLike[str] | None = None,
  deep: bool = False,
  workers: int | None = None,
  progress: Progress | None = None,
) -> ManifestReport:
  """Checks every row of a manifest, and every file that it names.

  Memory does not grow with the table, except by 8 bytes for every row.

  Args:
    path: the manifest, see `read_manifest`.
    kinds: see `read_manifest`.
    root: see `read_manifest`.
    deep: decodes all of every file, and not only its headers.
    workers: how many processes look at files; by default one for each core.
    progress: is told the number of rows that are done and (of text files the
      approximate) number of all.

  Returns:
    The report. Rows and cells that are wrong are in it and raise nothing.

  Raises:
    FileNotFoundError: if the manifest or its root is missing.
    ValueError: if it cannot be read as a table, or its columns are wrong.
  """
  path = as_path(path)
  columns = read_columns(path)
  found_kinds = find_kinds(path, columns, kinds)
  folder = find_root(path, root)
  report = ManifestReport(str(path), str(folder), deep)
  report.columns = {
    name: ColumnReport(kind) for name, kind in found_kinds.items()
  }
  typer = CellTyper(found_kinds, columns)
  hashes: list[np.ndarray] = []
  has_files = any(kind in FILE_KINDS for kind in found_kinds.values())
  total = count_rows(path)
  done = 0
  results = run_tasks(
    _check_rows,
    _Files(folder, found_kinds, deep),
    _tasks(path, typer, report, hashes),
    # One task keeps one process busy.
    workers=workers if has_files and total > _ROWS_PER_TASK else 1,
  )
  with contextlib.closing(results):
    for result in results:
      for modality, measures in result.measures:
        report.columns[modality].add(measures)
      report.add_problems(result.problems)
      done += result.num_rows
      if progress is not None:
        progress(done, max(done, total))
  if not report.num_rows:
    raise ValueError(f"the manifest {path} has no rows")
  report.add_problems(_duplicates(path, hashes))
  report.problems.sort()
  report.notes = _notes(report, typer, columns)
  return report


class _Files(NamedTuple):
  """What checking files takes, the same for all rows."""

  root: pathlib.Path
  kinds: Mapping[str, str]
  deep: bool


class _Cell(NamedTuple):
  row: int
  id: str
  modality: str
  path: str


class _Task(NamedTuple):
  num_rows: int
  cells: list[_Cell]


class _Result(NamedTuple):
  num_rows: int
  measures: list[tuple[str, dict[str, float]]]  # modality, of a sound file
  problems: list[Problem]


_ROWS_PER_TASK = 16


def _tasks(
  path: pathlib.Path,
  typer: CellTyper,
  report: ManifestReport,
  hashes: list[np.ndarray],
) -> Iterator[_Task]:
  """Reads the table into the report, and yields the files to look at."""
  for first_row, batch, problems in read_typed(path, typer):
    report.add_problems(problems)
    _count(report, batch)
    ids = batch.column("id").to_pylist()
    # A row without an id is a problem of its own, and no duplicate.
    known = [name for name in ids if name is not None]
    hashes.append(np.fromiter(map(hash, known), np.int64, len(known)))
    files = {
      name: batch.column(name).to_pylist()
      for name, column in report.columns.items()
      if column.kind in FILE_KINDS
    }
    if not files:
      yield _Task(batch.num_rows, [])
      continue
    for start in range(0, batch.num_rows, _ROWS_PER_TASK):
      rows = range(start, min(start + _ROWS_PER_TASK, batch.num_rows))
      cells = [
        _Cell(first_row + row, ids[row] or "", name, paths[row])
        for row in rows
        for name, paths in files.items()
        if paths[row] is not None
      ]
      yield _Task(len(rows), cells)


def _count(report: ManifestReport, batch: pa.RecordBatch) -> None:
  report.num_rows += batch.num_rows
  for name, column in report.columns.items():
    cells = batch.column(name)
    column.num_present += batch.num_rows - cells.null_count
    if column.kind in ("text", "vector"):
      what = "texts" if column.kind == "text" else "numbers"
      for length in pc.value_counts(
        pc.drop_null(pc.list_value_length(cells))
      ).to_pylist():
        _add_many(column, what, length["values"], length["counts"])
  if "split" in batch.schema.names:
    counts = pc.value_counts(pc.fill_null(batch.column("split"), ""))
    for item in counts.to_pylist():
      if item["values"] in report.splits or len(report.splits) < _MAX_SPLITS:
        report.splits.setdefault(item["values"], 0)
        report.splits[item["values"]] += item["counts"]


def _add_many(
  column: ColumnReport, what: str, value: float, times: int
) -> None:
  column.add({what: value})
  column.ranges[what].count += times - 1
  column.ranges[what].total += value * (times - 1)


def _check_rows(shared: _Files, task: _Task) -> _Result:
  measures, problems = [], []
  for row, name, modality, cell in task.cells:
    try:
      path = resolve(shared.root, cell)
      found = check_file(path, shared.kinds[modality], deep=shared.deep)
      measures.append((modality, found))
    except (ValueError, OSError) as error:
      reason = " ".join(str(error).split())
      problems.append(Problem(row, name, modality, reason))
  return _Result(task.num_rows, measures, problems)


def _duplicates(path: pathlib.Path, hashes: list[np.ndarray]) -> list[Problem]:
  """Finds ids that occur again, by 8 bytes for each, and then a second look."""
  values = np.sort(np.concatenate([*hashes, np.zeros(0, np.int64)]))
  suspects = set(values[1:][values[1:] == values[:-1]].tolist())
  if not suspects:
    return []
  ids = (
    (row, name)
    for first_row, batch, _ in read_typed(path, CellTyper({}, ["id"]))
    for row, name in enumerate(batch.column("id").to_pylist(), first_row)
  )
  return find_duplicates(
    (row, name)
    for row, name in ids
    if name is not None and hash(name) in suspects
  )


def _notes(
  report: ManifestReport, typer: CellTyper, columns: list[str]
) -> list[str]:
  notes = []
  unread = [name for name in columns if name not in typer.columns]
  if unread:
    notes.append(f"columns that are not read: {', '.join(unread)}")
  for name in columns:
    close = difflib.get_close_matches(name, RESERVED, n=1, cutoff=0.75)
    if name not in RESERVED and close and close[0] not in columns:
      notes.append(f"is the column {name!r} meant to be {close[0]!r}?")
  if typer.num_blank_texts:
    notes.append(
      f"{typer.num_blank_texts:,} texts of white space only count as absent"
    )
  if len(report.splits) == _MAX_SPLITS:
    notes.append(f"the first {_MAX_SPLITS} splits are counted; there are more")
  return notes
