"""A table of instances: which values and files belong together."""

from __future__ import annotations

import functools
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmrl_jax.data.manifest.cells import CellTyper, typed_batches
from pmrl_jax.data.manifest.inference import find_kinds
from pmrl_jax.data.manifest.kinds import (
  FILE_KINDS,
  RESERVED,
)
from pmrl_jax.data.manifest.paths import resolve
from pmrl_jax.data.manifest.reading import (
  Problem,
  as_path,
  form_of,
  read_batches,
  read_columns,
)

_NUM_SHOWN = 5


class Manifest:
  """The rows of a manifest, typed and in memory; files are only named.

  Pickled, it is the path of its file, which is read anew: cheap to send.

  Attributes:
    path: the file.
    root: the folder that paths in the table are relative to.
    kinds: {modality: one of `KINDS`}, in the order of the columns.
    table: `id`, then `label`, `source` and `split` where there are any, then
      the modalities; see `CellTyper` for the types.
  """

  def __init__(
    self,
    table: pa.Table,
    *,
    path: pathlib.Path,
    root: pathlib.Path,
    kinds: Mapping[str, str],
    split: str | None,
  ):
    """Keeps a typed table; use `read_manifest`."""
    self.table = table
    self.path = path
    self.root = root
    self.kinds = dict(kinds)
    self._split = split
    self._stamp = _stamp(path)

  def __reduce__(self) -> Any:
    """Pickles what it takes to read the file again."""
    return _read_again, (
      self.path, self.kinds, self.root, self._split, self._stamp
    )  # fmt: skip

  def __len__(self) -> int:
    """The number of rows."""
    return self.table.num_rows

  @functools.cached_property
  def ids(self) -> list[str]:
    """The id of every row; no two are the same."""
    return self.table.column("id").to_pylist()

  @functools.cached_property
  def where(self) -> np.ndarray:
    """Bool `[row, modality]`: which cells are present."""
    columns = [
      self.table.column(modality).is_valid().to_numpy()
      for modality in self.kinds
    ]
    return np.stack(columns, axis=1).astype(bool)

  @functools.cached_property
  def labels(self) -> np.ndarray | None:
    """Int64 `[row]`, -1 where there is none; None without such a column."""
    if "label" not in self.table.column_names:
      return None
    return pc.fill_null(self.table.column("label"), -1).to_numpy()

  @functools.cached_property
  def sources(self) -> list[str] | None:
    """What every row was cut from, "" if unknown; None without the column."""
    return self._texts("source")

  @functools.cached_property
  def splits(self) -> list[str] | None:
    """The split of every row, "" if none; None without such a column."""
    return self._texts("split")

  def value(
    self, row: int, modality: str
  ) -> pathlib.Path | np.ndarray | list[str] | None:
    """Returns what a cell says; files are not opened.

    Args:
      row: from 0.
      modality: a key of `kinds`.

    Returns:
      The absolute path of a file (video, audio, image, array), the texts, or
      the vector, float32 `[dim]`; None if the cell is empty.

    Raises:
      ValueError: if a path leaves the root.
    """
    kind = self.kinds[modality]
    cell = self.table.column(modality)[row]
    if not cell.is_valid:
      return None
    if kind in FILE_KINDS:
      return resolve(self.root, cell.as_py())
    if kind == "vector":
      return cell.values.to_numpy().astype(np.float32)
    return cell.as_py()

  def _texts(self, column: str) -> list[str] | None:
    if column not in self.table.column_names:
      return None
    return pc.fill_null(self.table.column(column), "").to_pylist()


def read_manifest(
  path: str | os.PathLike[str],
  *,
  kinds: Mapping[str, str | None] | None = None,
  root: str | os.PathLike[str] | None = None,
  split: str | None = None,
) -> Manifest:
  """Reads a manifest: a parquet, JSON lines or CSV file.

  Its columns are `id` (unique), if known `label` (integers), `source` (what
  was cut from the same source is not told apart) and `split`, and one for each
  modality. A cell is a path relative to `root` or a value: a text, a list of
  texts (several captions; in CSV spelled as JSON), a number, or a list of
  numbers. Empty cells are absent.

  Args:
    path: the file: .parquet, .jsonl, .ndjson, .csv or .tsv.
    kinds: {column: one of `KINDS`, or None to leave it out}; the kinds of
      other columns are inferred from their first values, see `infer_kind`.
    root: the folder that paths are relative to; by default that of the file.
    split: only the rows of this split.

  Returns:
    The manifest.

  Raises:
    FileNotFoundError: if the file or the root is missing.
    ValueError: if there are no rows, or something in the table is wrong; the
      message holds the first mistakes.
  """
  path = as_path(path)
  columns = read_columns(path)
  folder = find_root(path, root)
  found_kinds = find_kinds(path, columns, kinds)
  typer = CellTyper(found_kinds, columns)
  batches, problems = [], []
  for _, batch, found in read_typed(path, typer):
    batches.append(batch)
    problems += found
    if len(problems) >= _NUM_SHOWN:
      break
  table = pa.Table.from_batches(batches, typer.schema)
  problems = problems or find_duplicates(enumerate(table["id"].to_pylist()))
  if problems:
    raise ValueError(
      f"{path} has mistakes, the first ones are\n"
      + "".join(f"  {problem}\n" for problem in problems[:_NUM_SHOWN])
      + f"List all with: python -m experiments.prepare validate {path}"
    )
  if not len(table):
    raise ValueError(f"the manifest {path} has no rows")
  if split is not None:
    table = _of_split(table, split, path)
  return Manifest(table, path=path, root=folder, kinds=found_kinds, split=split)


def find_root(
  path: pathlib.Path, root: str | os.PathLike[str] | None
) -> pathlib.Path:
  """Returns the resolved folder that paths are relative to.

  Raises:
    FileNotFoundError: if there is none.
  """
  folder = path.parent if root is None else pathlib.Path(root)
  if not folder.is_dir():
    raise FileNotFoundError(f"expected a folder as root, got {folder}")
  return folder.resolve()


def read_typed(
  path: pathlib.Path, typer: CellTyper
) -> Iterator[tuple[int, pa.RecordBatch, list[Problem]]]:
  """Streams `(first row, typed batch, problems)` of a table."""
  batches = read_batches(path, typer.columns)
  return typed_batches(batches, typer, is_csv=form_of(path) == "csv")


def find_duplicates(ids: Iterable[tuple[int, str]]) -> list[Problem]:
  """Returns a problem for every `(row, id)` whose id has occurred before."""
  first: dict[str, int] = {}
  problems = []
  for row, name in ids:
    if first.setdefault(name, row) != row:
      reason = f"the id occurs already in row {first[name]}"
      problems.append(Problem(row, name, "id", reason))
  return problems


def _of_split(table: pa.Table, split: str, path: pathlib.Path) -> pa.Table:
  if "split" not in table.column_names:
    raise ValueError(
      f"{path} has no column 'split', so it has no split {split!r}"
    )
  column = table.column("split")
  known = sorted(name for name in column.unique().to_pylist() if name)
  if split not in known:
    raise ValueError(
      f"expected one of the splits {known} of {path}, got {split!r}"
    )
  return table.filter(pc.equal(column, split))


def _stamp(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns


def _read_again(
  path: pathlib.Path,
  kinds: Mapping[str, str],
  root: pathlib.Path,
  split: str | None,
  stamp: tuple[int, int],
) -> Manifest:
  if _stamp(path) != stamp:
    raise ValueError(f"the manifest {path} has changed since it was read")
  modalities = [name for name in read_columns(path) if name not in RESERVED]
  return read_manifest(
    path,
    kinds={name: kinds.get(name) for name in modalities},
    root=root,
    split=split,
  )
