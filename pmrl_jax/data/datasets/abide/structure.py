"""FreeSurfer's tables of regions -> one row of numbers per subject."""

from __future__ import annotations

import csv
import pathlib
from collections.abc import Sequence

import numpy as np

from pmrl_jax.data.datasets.abide.features import (
  FeatureTable,
  is_missing,
  number,
  quantities,
)


def structure_table(root: pathlib.Path, ids: Sequence[str]) -> FeatureTable:
  """Joins FreeSurfer's tables by their first column.

  Args:
    root: the folder below which there are `*aparc_table_*.tsv` and
      `aseg_table.tsv`: tab-separated, with a header, the ids in the first
      column, whatever it is called.
    ids: the subjects, in the order of the rows that are returned.

  Returns:
    The columns `TABLE:REGION` of all tables side by side, the tables sorted by
    name; the row of a subject that a table lacks is NaN there.

  Raises:
    FileNotFoundError: if there is no table.
    ValueError: if a file is not such a table or has none of the subjects, or
      two files have one name.
  """
  paths = sorted(
    [*root.rglob("*aparc_table_*.tsv"), *root.rglob("aseg_table.tsv")],
    key=lambda path: path.name,
  )
  if not paths:
    raise FileNotFoundError(
      f"expected *.aparc_table_*.tsv or aseg_table.tsv below {root}"
    )
  for first, second in zip(paths, paths[1:]):
    if first.name == second.name:
      raise ValueError(
        f"expected one file of each name, got {first} and {second}"
      )
  blocks, columns, notes = [], [], [f"structure: {len(paths)} tables"]
  for path in paths:
    header, rows = _read_table(path)
    absent = [item for item in ids if item not in rows]
    if len(absent) == len(ids):
      raise ValueError(
        f"{path} has none of the subjects: its first column holds "
        f"{list(rows)[:3]}, expected FILE_IDs such as {list(ids[:3])}"
      )
    if absent:
      notes.append(f"structure: {path.name} lacks {len(absent):,} subjects")
    nothing = np.full(len(header), np.nan)
    block = np.stack([rows.get(item, nothing) for item in ids])
    cells = np.isnan(block).sum() - len(absent) * len(header)
    if cells:
      notes.append(f"structure: {path.name} has {cells:,} cells without number")
    blocks.append(block)
    columns += [f"{path.stem}:{name}" for name in header]
  return quantities(np.concatenate(blocks, axis=1), tuple(columns), notes)


def _read_table(path: pathlib.Path) -> tuple[list[str], dict[str, np.ndarray]]:
  """Returns the names of the columns, and the numbers of every id."""
  with path.open(encoding="utf-8-sig", newline="") as file:
    lines = [line for line in csv.reader(file, delimiter="\t") if line]
  if not lines or len(lines[0]) < 2:
    raise ValueError(
      f"expected tab-separated columns in {path}, got {lines[:1]!r:.80}"
    )
  header, rows = lines[0][1:], {}
  for line in lines[1:]:
    item, cells = line[0].strip(), line[1:]
    if len(cells) != len(header):
      raise ValueError(
        f"expected {len(header) + 1} fields for {item!r} in {path}, got "
        f"{len(line)}"
      )
    if item in rows:
      raise ValueError(f"{path} has several rows for {item!r}")
    rows[item] = _numbers(cells, item, path)
  return header, rows


def _numbers(cells: Sequence[str], item: str, path: pathlib.Path) -> np.ndarray:
  values = [np.nan if is_missing(cell) else number(cell) for cell in cells]
  if None in values:
    bad = cells[values.index(None)]
    raise ValueError(f"expected numbers for {item!r} in {path}, got {bad!r}")
  row = np.asarray(values, np.float64)
  return np.where(np.isfinite(row), row, np.nan)
