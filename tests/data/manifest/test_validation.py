"""Every row and every file of a manifest is looked at, in little memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pmrl_jax.data.manifest import read_manifest, validate


def test_a_sound_manifest_is_counted(mixed):
  told = []
  report = validate(mixed, workers=1, progress=lambda *n: told.append(n))
  assert report.is_sound and report.num_rows == 10 and not report.problems
  columns = report.columns
  assert {n: c.kind for n, c in columns.items()} == read_manifest(mixed).kinds
  assert [c.num_present for c in columns.values()] == [9, 9, 10]
  assert columns["caption"].ranges["texts"].total == 15
  assert columns["table"].ranges["numbers"].most == 2
  scan = columns["scan"].ranges["numbers"]
  assert (scan.count, scan.total, scan.least, scan.most) == (9, 153, 3, 30)
  assert told[-1] == (10, 10)
  text = report.as_text()
  assert "nothing is broken" in text and "90.0%" in text
  assert json.loads(report.as_json())["columns"]["scan"]["num_present"] == 9


@pytest.mark.parametrize("workers", [1, 2])
def test_everything_that_is_broken_is_listed(workers, tmp_path, write):
  np.save(tmp_path / "good.npy", np.ones(3))
  np.save(tmp_path / "pickle.npy", np.array([object()]), allow_pickle=True)
  np.save(tmp_path / "words.npy", np.array(["word"]))
  np.save(tmp_path / "none.npy", np.ones((0, 3)))
  (tmp_path / "empty.npy").touch()
  (tmp_path / "short.npy").write_bytes(
    (tmp_path / "good.npy").read_bytes()[:-8]
  )
  np.savez(tmp_path / "several", a=np.ones(2), b=np.ones(2))
  (tmp_path / "several.npz").rename(tmp_path / "several.npy")
  (tmp_path / "folder.npy").mkdir()
  (tmp_path / "link.npy").symlink_to("/etc/hostname")
  reasons = {
    "good.npy": None,
    "pickle.npy": "no .npy file",
    "words.npy": "real numbers",
    "none.npy": "is empty",
    "empty.npy": "the file is empty",
    "short.npy": "no .npy file",
    "several.npy": "several arrays",
    "folder.npy": "it is no file",
    "missing.npy": "no such file",
    "../x.npy": "leaves the root",
    "/x.npy": "absolute",
    "link.npy": "leaves the root",
  }
  rows = [{"id": f"{i}", "x": cell} for i, cell in enumerate(reasons)]
  rows += [{"id": f"more {i}", "x": "good.npy"} for i in range(20)]
  rows += [{"id": "0", "x": "good.npy"}, {"x": "good.npy"}, {"id": "n", "x": 3}]
  report = validate(
    write(tmp_path / "t.jsonl", rows), kinds={"x": "array"}, workers=workers
  )
  assert report.num_problems == len(report.problems) == 14
  assert report.columns["x"].num_broken == 12
  found = {problem.row: problem for problem in report.problems}
  for row, reason in enumerate(reasons.values()):
    if reason is None:
      assert row not in found
    else:
      assert found[row].id == str(row) and found[row].column == "x"
      assert reason in found[row].reason
  assert found[32] == (32, "0", "id", "the id occurs already in row 0")
  assert found[33] == (33, "", "id", "expected an id, got an empty cell")
  assert "expected a path, got 3" in found[34].reason
  text = report.as_text(num_shown=2)
  assert "row 1 (id '1'), x: " in text and "... and 12 more" in text


def test_only_a_deep_look_reads_the_values(tmp_path, write):
  np.save(tmp_path / "x.npy", np.array([1, np.nan]))
  path = write(tmp_path / "t.csv", [{"id": "a", "x": "x.npy"}])
  assert validate(path, workers=1).is_sound
  report = validate(path, workers=1, deep=True)
  assert [problem.reason.split(": ")[1] for problem in report.problems] == [
    "expected finite numbers, got NaN or infinity"
  ]


def test_rows_that_are_no_rows_are_listed_too(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text("id,t,label\na,x,1\nb,y\nc,z,one\nd,z,2,3\n")
  report = validate(path)
  assert [(p.row, p.id, p.column) for p in report.problems] == [
    (1, "", ""),
    (2, "c", "label"),
    (3, "", ""),
  ]


def test_what_is_odd_is_noted(tmp_path, write):
  rows = [
    {"id": "a", "text": " ", "lable": 1, "split": "train"},
    {"id": "b", "text": "x", "lable": 1},
  ]
  report = validate(write(tmp_path / "t.jsonl", rows), kinds={"lable": None})
  assert report.is_sound and report.splits == {"train": 1, "": 1}
  assert report.columns["text"].num_present == 1
  notes = "\n".join(report.notes)
  assert "not read: lable" in notes
  assert "'lable' meant to be 'label'" in notes
  assert "1 texts of white space" in notes
  assert "(none) 1" in report.as_text()


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (b"", "empty"),
    (b"id,t\n", "no rows"),
    (b"id,t\na,\xe9\n", "not UTF-8"),
    (b"name,t\na,x\n", "column 'id'"),
  ],
)
def test_what_is_no_manifest_at_all_is_an_error(content, message, tmp_path):
  (tmp_path / "t.csv").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    validate(tmp_path / "t.csv")


NUM_ROWS = 1_000_000
# For all of the batches, lists and hashes; the tables have 17 to 130 MB.
MAX_GROWTH = 160  # MB
FILL = """
import csv, json, sys
import pyarrow as pa, pyarrow.parquet as pq
path, n = sys.argv[1], int(sys.argv[2])
form = path.rpartition(".")[2]
def row(i):
  return {
    "id": f"video{i if i < n - 1 else 5}",
    "caption": f"a person does thing number {i} in the kitchen",
    "score": [i / 7, 1.0, 2.0, 3.0],
  }
if form == "jsonl":
  with open(path, "w") as file:
    for i in range(n):
      file.write(json.dumps(row(i)) + chr(10))
elif form == "csv":
  with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["id", "caption", "score"])
    for i in range(n):
      cells = row(i)
      writer.writerow([*list(cells.values())[:2], json.dumps(cells["score"])])
else:
  schema = pa.Table.from_pylist([row(0)]).schema
  with pq.ParquetWriter(path, schema) as writer:
    for start in range(0, n, 100_000):
      rows = [row(i) for i in range(start, min(start + 100_000, n))]
      writer.write_table(pa.Table.from_pylist(rows, schema))
"""
MEASURE = """
import json, sys
from pmrl_jax.data.manifest import validate
def memory(key):
  with open("/proc/self/status") as file:
    [line] = [line for line in file if line.startswith(key)]
  return int(line.split()[1]) / 1000
before = memory("VmRSS")
report = validate(sys.argv[1])
print(json.dumps([
  memory("VmHWM") - before, report.num_rows, report.num_problems,
  report.problems[0].row,
]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
  not os.path.exists("/proc/self/status"), reason="measured from /proc"
)
@pytest.mark.parametrize("form", ["parquet", "jsonl", "csv"])
def test_a_million_rows_take_bounded_memory(form, tmp_path):
  path = tmp_path / f"t.{form}"
  arguments = [sys.executable, "-c", FILL, path, str(NUM_ROWS)]
  subprocess.run(arguments, check=True)
  measured = subprocess.run(
    [sys.executable, "-c", MEASURE, path],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  growth, num_rows, num_problems, row = json.loads(measured.stdout)
  assert (num_rows, num_problems, row) == (NUM_ROWS, 1, NUM_ROWS - 1)
  assert growth < MAX_GROWTH
