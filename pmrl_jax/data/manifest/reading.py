"""Raw rows of a table, batch by batch: parquet, JSON lines and CSV."""

from __future__ import annotations

import codecs
import csv
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

BATCH_SIZE = 4096  # rows in memory at once, if a table is streamed
_HEAD_ROWS = 1000  # of JSON lines, to know the columns

Form = Literal["parquet", "json", "csv"]
_FORMS: dict[str, Form] = {
  ".parquet": "parquet",
  ".jsonl": "json",
  ".ndjson": "json",
  ".csv": "csv",
  ".tsv": "csv",
}


class Problem(NamedTuple):
  """What is wrong with a row, or with one of its cells."""

  row: int  # from 0
  id: str  # "" if the row has none that can be read
  column: str  # "" if it is the row as a whole
  reason: str  # what was expected and what came

  def __str__(self) -> str:
    """The problem in one line."""
    name = f" (id {self.id!r})" if self.id else ""
    column = f", {self.column}" if self.column else ""
    return f"row {self.row}{name}{column}: {self.reason}"


class RawBatch(NamedTuple):
  """Some consecutive rows, as the file has them."""

  first_row: int
  num_rows: int
  columns: dict[str, list[Any] | pa.Array]  # None where a cell is empty
  problems: list[Problem]  # rows that are no rows; their cells are None


def form_of(path: pathlib.Path) -> Form:
  """Returns the form of a table by the extension of its file.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is empty, or the extension is another one.
  """
  if path.suffix.lower() not in _FORMS:
    raise ValueError(
      f"expected a manifest that ends in one of {list(_FORMS)}, got {path}"
    )
  if not path.is_file():
    raise FileNotFoundError(f"there is no manifest {path}")
  if not path.stat().st_size:
    raise ValueError(f"the manifest {path} is empty: it has no byte")
  return _FORMS[path.suffix.lower()]


def read_columns(path: pathlib.Path) -> list[str]:
  """Returns the names of the columns of a table.

  JSON lines have no header: their columns are the keys of the first rows.

  Raises:
    ValueError: if there are none, one has no name, or two have the same.
  """
  form = form_of(path)
  if form == "parquet":
    with _open_parquet(path) as file:
      columns = file.schema_arrow.names
  elif form == "csv":
    columns = next(_csv_rows(path), [])
  else:
    rows = _json_rows(path)
    head = [row for _, (row, _) in zip(range(_HEAD_ROWS), rows)]
    columns = list(dict.fromkeys(key for row in head if row for key in row))
  if not columns:
    raise ValueError(f"{path} has no columns; expected 'id' and modalities")
  if "" in columns:
    raise ValueError(
      f"column {columns.index('') + 1} of {path} has no name; name it"
    )
  twice = [name for name in columns if columns.count(name) > 1]
  if twice:
    raise ValueError(f"{path} has several columns {twice[0]!r}; rename them")
  return columns


def read_batches(
  path: pathlib.Path, columns: Sequence[str], batch_size: int = BATCH_SIZE
) -> Iterator[RawBatch]:
  """Streams the rows of a table.

  Args:
    path: the file.
    columns: which of its columns to read.
    batch_size: how many rows a batch has at most.

  Yields:
    The batches, of which no more than one is in memory.

  Raises:
    ValueError: if the file is damaged, or is text that is not UTF-8.
  """
  form = form_of(path)
  if form == "parquet":
    return _parquet_batches(path, columns, batch_size)
  rows = _json_rows(path) if form == "json" else _csv_dicts(path)
  known = set(read_columns(path)) if form == "json" else None
  return _batches(_checked(rows, known), columns, batch_size)


def count_rows(path: pathlib.Path) -> int:
  """Returns how many rows a table has; for text forms how many lines.

  Quick, for a progress bar: cells of several lines make it too high.
  """
  if form_of(path) == "parquet":
    with _open_parquet(path) as file:
      return file.metadata.num_rows
  with path.open("rb") as file:
    lines = sum(
      chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b"")
    )
  return max(1, lines)


def _open_parquet(path: pathlib.Path) -> pq.ParquetFile:
  try:
    return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
  except (pa.ArrowException, OSError) as error:
    raise ValueError(f"{path} is no parquet file: {error}") from None


def _parquet_batches(
  path: pathlib.Path, columns: Sequence[str], batch_size: int
) -> Iterator[RawBatch]:
  first_row = 0
  with _open_parquet(path) as file:
    try:
      for batch in file.iter_batches(batch_size, columns=list(columns)):
        values = {name: batch.column(name) for name in columns}
        yield RawBatch(first_row, batch.num_rows, values, [])
        first_row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
      raise ValueError(
        f"{path} cannot be read after row {first_row}: it is damaged, or "
        f"holds what pyarrow {pa.__version__} cannot read: {error}"
      ) from None


# A row with its problem: one of them is None.
_Row = tuple[dict[str, Any] | None, str | None]


def _json_rows(path: pathlib.Path) -> Iterator[_Row]:
  for number, line in enumerate(_lines(path), 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except ValueError as error:
      yield None, f"line {number} is no JSON object: {error}"
      continue
    if isinstance(row, dict):
      yield row, None
    else:
      yield None, f"line {number} is {type(row).__name__}, expected an object"


def _csv_dicts(path: pathlib.Path) -> Iterator[_Row]:
  rows = _csv_rows(path)
  columns = next(rows)
  for cells in rows:
    if not cells:  # an empty line
      continue
    if len(cells) == len(columns):
      yield dict(zip(columns, cells)), None
    else:
      yield (
        None,
        (
          f"expected {len(columns)} cells, got {len(cells)}; put cells that "
          "hold the separator or a quote into quotes"
        ),
      )


def _csv_rows(path: pathlib.Path) -> Iterator[list[str]]:
  # The limit of the csv module is for the whole process, 128 KiB by default;
  # a vector may be longer.
  csv.field_size_limit(1 << 28)
  delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
  reader = csv.reader(_lines(path), delimiter=delimiter, strict=True)
  while True:
    try:
      yield next(reader)
    except StopIteration:
      return
    except csv.Error as error:
      raise ValueError(f"line {reader.line_num} of {path}: {error}") from None


def _lines(path: pathlib.Path) -> Iterator[str]:
  """Yields the lines of a text file with their ends."""
  with path.open("rb") as file:
    for number, line in enumerate(file, 1):
      if number == 1:  # spreadsheet programs begin their UTF-8 with a mark
        line = line.removeprefix(codecs.BOM_UTF8)
      try:
        yield line.decode("utf-8")
      except UnicodeDecodeError as error:
        raise ValueError(
          f"line {number} of {path} is not UTF-8: {error}; convert the file, "
          "as by `iconv -f latin1 -t utf-8`"
        ) from None


def _checked(rows: Iterable[_Row], known: set[str] | None) -> Iterator[_Row]:
  """Finds keys that appear only after the head of JSON lines."""
  for row, problem in rows:
    if row is not None and known is not None and not row.keys() <= known:
      unknown = sorted(row.keys() - known)
      yield None, f"unknown columns {unknown}; the first rows have none such"
    else:
      yield row, problem


def _batches(
  rows: Iterable[_Row], columns: Sequence[str], batch_size: int
) -> Iterator[RawBatch]:
  first_row = 0
  values: dict[str, list[Any]] = {name: [] for name in columns}
  problems: list[Problem] = []
  number = -1
  for number, (row, problem) in enumerate(rows):
    if problem is not None:
      problems.append(Problem(number, "", "", problem))
    for name, cells in values.items():
      cell = None if row is None else row.get(name)
      cells.append(None if cell == "" else cell)
    if number + 1 - first_row == batch_size:
      yield RawBatch(first_row, batch_size, values, problems)
      first_row = number + 1
      values, problems = {name: [] for name in columns}, []
  if number + 1 > first_row:
    yield RawBatch(first_row, number + 1 - first_row, values, problems)


def as_path(path: str | os.PathLike[str]) -> pathlib.Path:
  """Returns an absolute path, for processes with other working folders."""
  return pathlib.Path(os.path.abspath(path))
