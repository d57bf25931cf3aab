"""Tables in manifest form -> files that `read_manifest` reads."""

from __future__ import annotations

import csv
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pmrl_jax.data.manifest.kinds import NUMBER, parse_json_list
from pmrl_jax.data.manifest.reading import as_path


def write_table(table: pa.Table, path: str | os.PathLike[str]) -> None:
  """Writes a table in the form that the name of the file tells.

  In CSV, lists and texts that would be taken for lists or numbers are spelled
  as JSON lists.

  Args:
    table: with a column `id`; cells that are null are absent.
    path: the file: .parquet, .jsonl, .ndjson, .csv or .tsv; overwritten.

  Raises:
    ValueError: if the name ends in something else.
  """
  path = as_path(path)
  suffix = path.suffix.lower()
  if suffix not in (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv"):
    raise ValueError(
      "expected the name of a manifest to end in .parquet, .jsonl, .ndjson, "
      f".csv or .tsv, got {path}"
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  if suffix == ".parquet":
    pq.write_table(table, path)
  elif suffix in (".jsonl", ".ndjson"):
    with path.open("w", encoding="utf-8") as file:
      for row in _rows(table):
        present = {name: v for name, v in row.items() if v is not None}
        file.write(json.dumps(present, ensure_ascii=False) + "\n")
  else:
    with path.open("w", encoding="utf-8", newline="") as file:
      writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
      writer.writerow(table.column_names)
      for row in _rows(table):
        writer.writerow([_cell(value) for value in row.values()])


def below(
  table: pa.Table, folder: pathlib.PurePath, columns: Sequence[str]
) -> pa.Table:
  """Returns a table whose paths begin one or more folders higher.

  Args:
    table: a table in manifest form.
    folder: what to put before the paths, relative.
    columns: those that hold paths.
  """
  for name in columns:
    cells = [
      None if cell is None else (folder / cell).as_posix()
      for cell in table.column(name).to_pylist()
    ]
    index = table.column_names.index(name)
    table = table.set_column(index, name, pa.array(cells, pa.string()))
  return table


def _rows(table: pa.Table) -> Any:
  for batch in table.to_batches(max_chunksize=4096):
    yield from batch.to_pylist()


def _cell(value: Any) -> Any:
  if isinstance(value, list):
    is_plain = (
      len(value) == 1
      and isinstance(value[0], str)
      and parse_json_list(value[0]) is None
      and not value[0].lstrip().startswith('["')
      and not NUMBER.fullmatch(value[0].strip())
    )
    return value[0] if is_plain else json.dumps(value, ensure_ascii=False)
  return "" if value is None else value
