"""Manifests in every form, and everything that can be wrong with them."""

import json
import os
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pmrl_jax.data.manifest import read_manifest, write_table

ROWS = [
  {
    "id": "a@1",
    "label": 3,
    "source": "film",
    "split": "train",
    "clip": "clips/a 1.mp4",
    "caption": ["a dog, running", 'it says "wow"'],
    "scan": [0.5, -2.0],
    "age": 31,
  },
  {"id": "007", "split": "test", "clip": "b.MOV", "caption": ["[music]"]},
  {"id": "c", "split": "train", "caption": ["zwei\nZeilen"], "scan": [1, 2]},
]
KINDS = {"clip": "video", "caption": "text", "scan": "vector", "age": "vector"}
FORMS = (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv")


@pytest.fixture(params=FORMS)
def path(request, tmp_path):
  table = pa.Table.from_pylist(
    ROWS,
    pa.schema(
      [("id", pa.string()), ("label", pa.int32()), ("source", pa.string())]
      + [("split", pa.string()), ("clip", pa.string())]
      + [("caption", pa.list_(pa.string()))]
      + [("scan", pa.list_(pa.float64())), ("age", pa.int16())]
    ),
  )
  write_table(table, tmp_path / f"table{request.param}")
  return tmp_path / f"table{request.param}"


def test_all_forms_give_the_same_manifest(path):
  manifest = read_manifest(path)
  assert manifest.kinds == KINDS and len(manifest) == 3
  assert manifest.ids == ["a@1", "007", "c"]
  assert manifest.labels.tolist() == [3, -1, -1]
  assert manifest.sources == ["film", "", ""]
  assert manifest.splits == ["train", "test", "train"]
  assert manifest.where.tolist() == [
    [True, True, True, True],
    [True, True, False, False],
    [False, True, True, False],
  ]
  root = path.parent.resolve()
  assert manifest.value(0, "clip") == root / "clips/a 1.mp4"
  assert manifest.value(2, "clip") is None
  assert manifest.value(0, "caption") == ROWS[0]["caption"]
  assert manifest.value(1, "caption") == ["[music]"]
  assert manifest.value(2, "caption") == ["zwei\nZeilen"]
  scan = manifest.value(2, "scan")
  assert scan.dtype == np.float32 and scan.tolist() == [1, 2]
  assert manifest.value(0, "age").tolist() == [31]


def test_a_split_is_read_alone(path):
  assert read_manifest(path, split="train").ids == ["a@1", "c"]
  with pytest.raises(ValueError, match=r"\['test', 'train'\].*'val'"):
    read_manifest(path, split="val")


def test_kinds_that_are_given_win_over_inferred_ones(path):
  manifest = read_manifest(path, kinds={"clip": "audio", "age": None})
  kinds = {"clip": "audio", "caption": "text", "scan": "vector"}
  assert manifest.kinds == kinds and manifest.where.shape == (3, 3)
  assert pickle.loads(pickle.dumps(manifest)).kinds == kinds


def test_a_pickled_manifest_is_small_and_reads_its_file_again(path):
  manifest = read_manifest(path, split="train", kinds={"age": None})
  content = pickle.dumps(manifest)
  assert len(content) < 1000
  again = pickle.loads(content)
  assert again.table.equals(manifest.table) and again.kinds == manifest.kinds
  os.utime(path, ns=(1, 1))
  with pytest.raises(ValueError, match="has changed"):
    pickle.loads(content)


def test_a_list_cell_in_csv_is_json(tmp_path):
  path = tmp_path / "t.csv"
  path.write_text('id,t\na,"[""x"", ""y""]"\nb,"[""x"""\n')
  with pytest.raises(ValueError, match=r"row 1 \(id 'b'\), t: .*JSON list"):
    read_manifest(path, kinds={"t": "text"})
  path.write_text('\ufeffid,t\na,"[""x"", ""y""]"\nb,[x\n\nc,""\n')
  manifest = read_manifest(path, kinds={"t": "text"})
  texts = [manifest.value(row, "t") for row in range(3)]
  assert texts == [["x", "y"], ["[x"], None]


def test_parquet_may_hold_arrows_other_types(tmp_path):
  table = pa.table(
    {
      "id": pa.array([1, 2, 3]),
      "label": pa.array([1.0, None, float("nan")]),
      "a": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64())),
      "b": pa.array([1.5, None, 2.5], pa.float16()),
      "c": pa.array(["x", "y", None]).dictionary_encode(),
      "d": pa.array([["x"], [], [" "]], pa.large_list(pa.large_string())),
      "e": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int64(), 2)),
    }
  )
  pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
  manifest = read_manifest(tmp_path / "t.parquet")
  assert manifest.ids == ["1", "2", "3"]
  assert manifest.labels.tolist() == [1, -1, -1]
  assert manifest.kinds == {
    k: "vector" if k in "abe" else "text" for k in "abcde"
  }
  assert manifest.value(2, "a").tolist() == [3, 4]
  assert manifest.value(0, "b").tolist() == [1.5]
  assert manifest.value(1, "e").tolist() == [3, 4]
  assert manifest.where.tolist() == [
    [True, True, True, True, True],
    [False, False, True, False, True],
    [True, True, False, False, True],
  ]


def test_what_a_version_of_pyarrow_cannot_read_is_named_as_such(tmp_path):
  cells = pa.array([[1, 2], None], pa.list_(pa.int64(), 2))
  table = pa.table({"id": ["1", "2"], "a": cells})
  pq.write_table(table, tmp_path / "t.parquet")
  try:
    manifest = read_manifest(tmp_path / "t.parquet")
  except ValueError as error:  # up to pyarrow 25
    assert f"holds what pyarrow {pa.__version__} cannot read" in str(error)
  else:
    assert manifest.where.tolist() == [[True], [False]]


@pytest.mark.parametrize("form", [".parquet", ".jsonl", ".csv"])
def test_sound_may_come_from_videos_by_the_name_of_the_column(
  form, tmp_path, write
):
  row = {"id": "a", "audio": "a.mp4", "x": "a.npy", "y": "a.JPG"}
  rows = [row, row | {"id": "b", "audio": "b.wav"}]
  path = write(tmp_path / f"t{form}", rows)
  kinds = {"audio": "audio", "x": "array", "y": "image"}
  assert read_manifest(path).kinds == kinds


# What is wrong, and what the message must hold.
JSON_MISTAKES = {
  "duplicate id": ([{"id": "a", "t": "x"}] * 2, ["row 1", "'a'", "row 0"]),
  "no id": ([{"id": "a", "t": "x"}, {"t": "x"}], ["row 1, id: expected an id"]),
  "empty id": ([{"id": "", "t": "x"}], ["row 0, id: expected an id"]),
  "no column id": ([{"name": "a", "t": "x"}], ["column 'id'", "'name'"]),
  "no modality": ([{"id": "a", "label": 1}], ["no modality"]),
  "mixed kinds": (
    [{"id": "a", "t": "x"}, {"id": "b", "t": 3}],
    ["'x' looks like text, 3 looks like vector", "say what it is"],
  ),
  "empty column": (
    [{"id": "a", "t": None}],
    ["'t'", "empty", "kinds={'t': 'text'}"],
  ),
  "unknown key later": (
    [{"id": f"{i}", "t": "x"} for i in range(1001)] + [{"id": "b", "u": "x"}],
    ["row 1001", "unknown columns ['u']"],
  ),
  "label that is text": (
    [{"id": "a", "t": "x", "label": "one"}],
    ["row 0 (id 'a'), label: expected an integer label, got 'one' (str)"],
  ),
  "label that is true": ([{"id": "a", "t": "x", "label": True}], ["integer"]),
  "label with a fraction": ([{"id": "a", "t": "x", "label": 0.5}], ["integer"]),
  "source that is a list": ([{"id": "a", "t": "x", "source": ["b"]}], ["text"]),
  "vectors of two lengths": (
    [{"id": "a", "v": [1, 2]}, {"id": "b", "v": [1]}],
    ["row 1 (id 'b'), v: expected 2 numbers", "got 1", ".npy"],
  ),
  "vector with NaN": ([{"id": "a", "v": [1, float("nan")]}], ["finite"]),
  "vector too large": ([{"id": "a", "v": [1e300]}], ["finite"]),
}  # fmt: skip


@pytest.mark.parametrize("name", JSON_MISTAKES)
def test_a_mistake_in_json_lines_is_explained(name, tmp_path, write):
  rows, fragments = JSON_MISTAKES[name]
  path = write(tmp_path / "t.jsonl", rows)
  with pytest.raises(ValueError) as error:
    read_manifest(path)
  for fragment in fragments:
    assert fragment in str(error.value)


@pytest.mark.parametrize(
  ("form", "kind", "cells"),
  [
    (".jsonl", "text", ["x", 3]),
    (".jsonl", "text", ["x", ["y", 3]]),
    (".jsonl", "video", ["a.mp4", 3]),
    (".jsonl", "video", ["a.mp4", ["b.mp4"]]),
    (".jsonl", "vector", [[1.5], "x"]),
    (".jsonl", "vector", [[1.5], [True]]),
    (".csv", "vector", ["1.5", "x"]),
    (".csv", "text", ["x", '["y", 3]']),
    (".parquet", "text", [1, 3]),  # whose columns have one type
    (".parquet", "video", [["a.mp4"], ["b.mp4"]]),
    (".parquet", "vector", ["1.5", "x"]),
  ],
)
def test_mixed_types_in_a_column_are_found(form, kind, cells, tmp_path, write):
  rows = [{"id": f"row {i}", "c": cell} for i, cell in enumerate(cells)]
  path = write(tmp_path / f"t{form}", rows)
  place = "column 'c'" if form == ".parquet" else r"row 1 \(id 'row 1'\), c: "
  with pytest.raises(ValueError, match="expected .* got") as error:
    read_manifest(path, kinds={"c": kind})
  assert error.match(place)


FILES = {
  "empty file": ("t.csv", b"", "empty"),
  "only a header": ("t.csv", b"id,t\n", "no rows"),
  "latin-1": (
    "t.csv",
    "id,t\na,é\n".encode("latin-1"),
    "line 2 of .* is not UTF-8",
  ),
  "latin-1 in JSON": (
    "t.jsonl",
    '{"id": "a", "t": "é"}'.encode("latin-1"),
    "line 1 of .* is not UTF-8",
  ),
  "too many cells": ("t.csv", b"id,t\na,x,y\n", "row 0: .*2 cells, got 3"),
  "open quote": ("t.csv", b'id,t\na,"x\nb,y\n', "unexpected end of data"),
  "no JSON": (
    "t.jsonl",
    b'{"id": "a", "t": "x"}\n{"id"\n',
    "row 1: line 2 is no JSON",
  ),
  "no object": ("t.jsonl", b'{"id": "a", "t": "x"}\n[1]\n', "line 2 is list"),
  "column twice": ("t.csv", b"id,t,t\na,x,y\n", "several columns 't'"),
  "column without name": ("t.csv", b"id,,t\na,x,y\n", "column 2"),
  "no parquet": ("t.parquet", b"id,t\na,x\n", "no parquet file"),
  "other extension": ("t.txt", b"id,t\na,x\n", "expected a manifest .*csv"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_table_is_explained(name, tmp_path):
  file, content, message = FILES[name]
  (tmp_path / file).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    read_manifest(tmp_path / file)


def test_a_damaged_parquet_file_is_an_error(tmp_path, write):
  rng = np.random.default_rng(0)
  texts = [rng.bytes(30).hex() for _ in range(1000)]
  rows = [{"id": str(i), "t": t} for i, t in enumerate(texts)]
  path = write(tmp_path / "t.parquet", rows)
  content = bytearray(path.read_bytes())
  content[100:20_000] = bytes(19_900)
  path.write_bytes(content)
  with pytest.raises(
    ValueError, match="cannot be read after row 0: it is damaged"
  ):
    read_manifest(path)


def test_a_missing_file_or_root_is_named(tmp_path, write):
  with pytest.raises(FileNotFoundError, match="nowhere.csv"):
    read_manifest(tmp_path / "nowhere.csv")
  path = write(tmp_path / "t.csv", [{"id": "a", "t": "x"}])
  with pytest.raises(FileNotFoundError, match="folder as root.*no_root"):
    read_manifest(path, root=tmp_path / "no_root")


@pytest.mark.parametrize(
  ("kinds", "message"),
  [
    ({"captoin": "text"}, "no column 'captoin'; did you mean 'caption'"),
    ({"caption": "txt"}, "'text'.*'caption', got 'txt'"),
    ({"id": "text"}, "'id' is no modality"),
    ({"caption": None}, "no modality that is read"),
  ],
)
def test_wrong_kinds_are_explained(kinds, message, tmp_path, write):
  path = write(tmp_path / "t.csv", [{"id": "a", "caption": "x"}])
  with pytest.raises(ValueError, match=message):
    read_manifest(path, kinds=kinds)


def test_a_path_that_leaves_the_root_is_refused(tmp_path, write):
  inside, outside = tmp_path / "in", tmp_path / "out"
  for folder in (inside, outside):
    folder.mkdir()
    np.save(folder / "x.npy", np.ones(2))
  (inside / "link.npy").symlink_to(outside / "x.npy")
  (inside / "folder").symlink_to(outside)
  (inside / "circle.npy").symlink_to(inside / "circle.npy")
  (inside / "good.npy").symlink_to(inside / "x.npy")
  cells = {
    "../out/x.npy": "leaves the root",
    "folder/x.npy": "leaves the root",
    "link.npy": "leaves the root",
    "circle.npy": "cannot be followed",
    str(inside / "x.npy"): "absolute",
    "good.npy": None,
    "folder/../x.npy": "leaves the root",  # as the system follows it
  }
  rows = [{"id": str(i), "x": cell} for i, cell in enumerate(cells)]
  manifest = read_manifest(write(inside / "t.csv", rows))
  for row, (cell, message) in enumerate(cells.items()):
    if message is None:
      assert manifest.value(row, "x") == (inside / "x.npy").resolve()
      continue
    with pytest.raises(ValueError, match=message) as error:
      manifest.value(row, "x")
    assert cell in str(error.value)
  wider = read_manifest(inside / "t.csv", root=tmp_path)
  with pytest.raises(ValueError, match="there|leaves"):
    wider.value(0, "x")  # relative to the folder above, it leaves that, too


def test_writing_what_was_read_changes_nothing(mixed, tmp_path):
  manifest = read_manifest(mixed)
  for form in FORMS:
    write_table(manifest.table, tmp_path / f"again{form}")
    again = read_manifest(tmp_path / f"again{form}", kinds=manifest.kinds)
    assert again.table.equals(manifest.table)
  with pytest.raises(ValueError, match="end in .parquet"):
    write_table(manifest.table, tmp_path / "again.xlsx")


def test_texts_that_look_like_lists_survive_csv(tmp_path):
  texts = [["12"], ['["a"'], ["[1]"], ['["a"]'], ["a", "b"], [" -1e5 "]]
  table = pa.table({"id": [str(i) for i in range(6)], "t": texts})
  write_table(table, tmp_path / "t.csv")
  manifest = read_manifest(tmp_path / "t.csv", kinds={"t": "text"})
  assert [manifest.value(row, "t") for row in range(6)] == texts
  assert json.loads('["12"]') == texts[0]
