"""Small manifests in all three forms."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

FORMS = (".parquet", ".jsonl", ".csv", ".tsv")


def write_rows(path, rows):
  """Writes `{column: value}` rows in the form of the path's extension."""
  columns = list(dict.fromkeys(key for row in rows for key in row))
  if path.suffix == ".parquet":
    pq.write_table(
      pa.table({c: [row.get(c) for row in rows] for c in columns}), path
    )
  elif path.suffix == ".jsonl":
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  else:
    with path.open("w", newline="") as file:
      writer = csv.writer(file, delimiter="\t" if "t" in path.suffix else ",")
      writer.writerow(columns)
      for row in rows:
        cells = [row.get(c) for c in columns]
        writer.writerow(
          [json.dumps(c) if isinstance(c, list) else c for c in cells]
        )
  return path


@pytest.fixture(scope="session")
def write():
  """`write(path, rows)` writes a manifest."""
  return write_rows


@pytest.fixture
def mixed(tmp_path):
  """Ten rows of values and arrays; row 3 has only its text."""
  rng = np.random.default_rng(0)
  rows = []
  for i in range(10):
    np.save(tmp_path / f"{i}.npy", rng.normal(size=(i + 1, 3)))
    rows.append(
      {
        "id": f"item {i}",
        "label": i % 3,
        "source": f"film {i // 2}",
        "scan": None if i == 3 else f"{i}.npy",
        "table": None if i == 3 else [i / 2, 0.25],
        "caption": [f"caption {i}", 'ünï, "quoted"\nline'][: 1 + i % 2],
      }
    )
  return write_rows(tmp_path / "mixed.jsonl", rows)
