"""A manifest becomes a TFDS data set: exact, resumable, checksummed."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds

from pmrl_jax.data import TooManyFailuresError
from pmrl_jax.data.manifest import (
  Encoding,
  build,
  features_of,
  parallel,
  read_manifest,
  verify,
)
from pmrl_jax.data.tfds_rows import TfdsRows


def read_back(folder, split="train"):
  return tfds.builder_from_directory(folder).as_data_source(split)


def tree(folder):
  return {
    path.relative_to(folder).as_posix(): path.read_bytes()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def test_what_is_read_back_is_what_the_manifest_says(mixed, tmp_path):
  manifest = read_manifest(mixed)
  built = build(manifest, tmp_path / "out", num_shards=3, workers=1)
  assert built.num_examples == {"train": 10} and built.num_bad == 0
  records = read_back(tmp_path / "out")
  assert len(records) == 10
  for row, record in enumerate(records):
    assert record["id"].decode() == manifest.ids[row]
    assert record["source"].decode() == manifest.sources[row]
    assert record["label"] == manifest.labels[row]
    texts = [text.decode() for text in record["caption"]]
    assert texts == manifest.value(row, "caption")
    assert record["scan"].dtype == record["table"].dtype == np.float32
    if row == 3:
      assert record["scan"].shape == (0, 3) and record["table"].shape == (0,)
      continue
    scan = np.load(tmp_path / f"{row}.npy").astype(np.float32)
    np.testing.assert_array_equal(record["scan"], scan)
    np.testing.assert_array_equal(record["table"], manifest.value(row, "table"))
  assert verify(tmp_path / "out") == []
  assert not (tmp_path / "out" / "bad_examples.jsonl").exists()
  assert not (tmp_path / "out" / ".building").exists()


def test_the_rows_of_the_data_set_are_those_of_the_manifest(mixed, tmp_path):
  manifest = read_manifest(mixed)
  build(manifest, tmp_path / "out", num_shards=3, workers=1)
  rows = TfdsRows(tmp_path / "out", "train")
  assert rows.kinds == manifest.kinds and rows.ids == manifest.ids
  assert rows.sources == manifest.sources
  np.testing.assert_array_equal(rows.labels, manifest.labels)
  np.testing.assert_array_equal(rows.where, manifest.where)
  assert rows.value(1, "caption") == manifest.value(1, "caption")


def test_reading_back_needs_no_tensorflow(mixed, tmp_path):
  program = (
    "import sys\n"
    "from pmrl_jax.data.manifest import build, read_manifest\n"
    f"build(read_manifest({str(mixed)!r}), {str(tmp_path / 'out')!r},"
    " workers=1)\n"
    "import tensorflow_datasets as tfds\n"
    f"builder = tfds.builder_from_directory({str(tmp_path / 'out')!r})\n"
    "assert len(builder.as_data_source('train')) == 10\n"
    "assert builder.as_data_source('train')[0]['id'] == b'item 0'\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  (tmp_path / "tensorflow.py").write_text("raise ImportError('none here')\n")
  path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
  subprocess.run(
    [sys.executable, "-c", program],
    check=True,
    env=os.environ | {"PYTHONPATH": path},
  )


def test_the_number_of_workers_does_not_change_a_byte(mixed, tmp_path):
  manifest = read_manifest(mixed)
  for workers in (1, 2):
    build(manifest, tmp_path / f"{workers}", num_shards=4, workers=workers)
  assert tree(tmp_path / "1") == tree(tmp_path / "2")


def test_a_build_that_was_killed_goes_on_to_the_same_bytes(mixed, tmp_path):
  build(read_manifest(mixed), tmp_path / "whole", num_shards=10, workers=1)
  out = tmp_path / "killed"
  # The process hangs in the sixth row, with five shards done.
  program = (
    "import time\n"
    "from pmrl_jax.data.manifest import build, features, read_manifest\n"
    "encode = features.read_array\n"
    "def read(path):\n"
    "  if path.name == '6.npy':\n"
    "    print('here', flush=True)\n"
    "    time.sleep(60)\n"
    "  return encode(path)\n"
    "features.read_array = read\n"
    f"build(read_manifest({str(mixed)!r}), {str(out)!r}, num_shards=10,"
    " workers=1)\n"
  )
  with subprocess.Popen(
    [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
  ) as process:
    assert process.stdout.readline() == "here\n"
    with pytest.raises(ValueError, match="another process is building"):
      build(read_manifest(mixed), out, num_shards=10, workers=1)
    process.send_signal(signal.SIGKILL)
  shards = sorted(out.glob("*array_record*"))
  assert len(shards) == 6 and list((out / ".building").glob("*.tmp"))
  with pytest.raises(ValueError, match="not finished"):
    verify(out)
  before = {path: path.stat().st_mtime_ns for path in shards}
  build(read_manifest(mixed), out, num_shards=10, workers=1)
  assert {path: path.stat().st_mtime_ns for path in shards} == before
  assert tree(out) == tree(tmp_path / "whole")


def test_going_on_in_another_way_is_refused(mixed, tmp_path, monkeypatch):
  out = tmp_path / "out"
  manifest = read_manifest(mixed)
  (tmp_path / "4.npy").write_bytes(b"no array")
  with pytest.raises(TooManyFailuresError):
    build(manifest, out, max_bad=0, workers=1, num_shards=2)
  with pytest.raises(ValueError, match="num_shards was .*2.*is .*3"):
    build(manifest, out, workers=1, num_shards=3)
  with pytest.raises(ValueError, match="jpeg_quality was 90, is 80"):
    build(
      manifest, out, workers=1, num_shards=2, encoding=Encoding(jpeg_quality=80)
    )
  build(manifest, out, workers=1, num_shards=2, max_bad=0.1)
  with pytest.raises(ValueError, match="finished"):
    build(manifest, out, workers=1, num_shards=2)
  with pytest.raises(ValueError, match="not empty"):
    build(manifest, tmp_path, workers=1)


def test_broken_files_are_listed_and_never_replaced(mixed, tmp_path):
  (tmp_path / "2.npy").write_bytes(b"no array")
  np.save(tmp_path / "5.npy", np.array([object()]), allow_pickle=True)
  np.save(tmp_path / "6.npy", np.array([[np.nan, 0, 0]]))
  (tmp_path / "7.npy").unlink()
  manifest = read_manifest(mixed)
  out = tmp_path / "out"
  with pytest.raises(TooManyFailuresError, match="item 2, scan: .*2.npy"):
    build(manifest, out, workers=1, max_bad=0.3)
  listed = [
    json.loads(line)
    for line in (out / "bad_examples.jsonl").read_text().splitlines()
  ]
  assert len(listed) == 4
  built = build(manifest, out, workers=1, max_bad=0.4)
  assert built.num_bad == 4 and built.num_examples == {"train": 10}
  lines = (out / "bad_examples.jsonl").read_text().splitlines()
  reasons = {}
  for line in map(json.loads, lines):
    assert line["modality"] == "scan"
    reasons[line["name"]] = line["reason"]
  assert list(reasons) == ["item 2", "item 5", "item 6", "item 7"]
  assert "no .npy file" in reasons["item 2"]
  assert "no .npy file" in reasons["item 5"]  # it is a pickle
  assert "NaN" in reasons["item 6"]
  assert "no such file" in reasons["item 7"]
  records = read_back(out)
  lengths = [len(record["scan"]) for record in records]
  assert lengths == [1, 2, 0, 0, 5, 0, 0, 0, 9, 10]
  assert [len(record["caption"]) for record in records] == [1, 2] * 5


def test_what_was_repaired_is_tried_again(mixed, tmp_path):
  good = (tmp_path / "4.npy").read_bytes()
  (tmp_path / "4.npy").write_bytes(good[:-1])
  out = tmp_path / "out"
  with pytest.raises(TooManyFailuresError):
    build(read_manifest(mixed), out, workers=1, num_shards=10, max_bad=0)
  (tmp_path / "4.npy").write_bytes(good)
  assert build(read_manifest(mixed), out, workers=1, num_shards=10).num_bad == 0
  assert not (out / "bad_examples.jsonl").exists()


def test_splits_become_splits(tmp_path, write):
  rows = [
    {"id": str(i), "split": "train" if i % 3 else "test", "t": f"text {i}"}
    for i in range(7)
  ]
  manifest = read_manifest(write(tmp_path / "t.csv", rows))
  built = build(manifest, tmp_path / "out", num_shards=3, workers=1)
  assert built.num_examples == {"test": 3, "train": 4}
  ids = [r["id"] for r in read_back(tmp_path / "out", "train")]
  assert ids == [b"1", b"2", b"4", b"5"]
  assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\1"), "has changed"),
    (lambda p: p.unlink(), "is missing"),
    (lambda p: p.with_name(f"{p.name}0").write_bytes(b""), "is not part"),
  ],
)
def test_a_damaged_shard_is_found(damage, message, mixed, tmp_path):
  out = tmp_path / "out"
  build(read_manifest(mixed), out, num_shards=2, workers=1)
  shard = out / "mixed-train.array_record-00001-of-00002"
  damage(shard)
  [problem] = verify(out)
  assert shard.name in problem and message in problem


def test_verifying_what_was_not_built_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match="checksums.json"):
    verify(tmp_path)
  (tmp_path / "checksums.json").write_text('{"../x": "0"}')
  with pytest.raises(ValueError, match="no list of files"):
    verify(tmp_path)


def test_arrays_of_any_shape_come_back(tmp_path, write):
  rng = np.random.default_rng(0)
  shapes = {"a": [(2, 3), (5, 3)], "b": [(2, 3), (4, 5)], "c": [(), (3,)]}
  rows = [{"id": "0"}, {"id": "1"}, {"id": "2"}]
  for name, pair in shapes.items():
    for row, shape in zip(rows, pair, strict=False):
      array = (rng.normal(size=shape) * 100).astype("f8" if row else "i4")
      np.save(tmp_path / f"{name}{row['id']}.npy", array)
      row[name] = f"{name}{row['id']}.npy"
  manifest = read_manifest(write(tmp_path / "t.jsonl", rows))
  build(manifest, tmp_path / "out", workers=1)
  builder = tfds.builder_from_directory(tmp_path / "out")
  found = {name: builder.info.features[name].shape for name in shapes}
  assert found == {"a": (None, 3), "b": (None, None), "c": (None,)}
  for row, record in zip(rows, read_back(tmp_path / "out"), strict=True):
    for name in shapes:
      if name in row:
        expected = np.atleast_1d(np.load(tmp_path / row[name]))
        np.testing.assert_array_equal(record[name], expected.astype("f4"))
      else:
        assert record[name].size == 0


def test_arrays_of_different_axes_are_refused(tmp_path, write):
  for i, shape in enumerate([(2,), (2, 2)]):
    np.save(tmp_path / f"{i}.npy", np.ones(shape))
  rows = [{"id": str(i), "a": f"{i}.npy"} for i in range(2)]
  with pytest.raises(ValueError, match=r"1 axes in 'a'.*row 1 \(id '1'\)"):
    build(read_manifest(write(tmp_path / "t.csv", rows)), tmp_path / "out")


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"num_shards": 0}, "num_shards must be at least 1"),
    ({"workers": 0}, "workers must be at least 1"),
    ({"max_bad": 2}, "from 0 to 1, got 2"),
    ({"name": "my-set"}, "got 'my-set'"),
  ],
)
def test_wrong_arguments_are_explained(arguments, message, mixed, tmp_path):
  arguments = {"num_shards": 2, "workers": 1} | arguments
  with pytest.raises(ValueError, match=message):
    build(read_manifest(mixed), tmp_path / "out", **arguments)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"num_frames": 8, "frames_per_second": 1.0}, "either .* or"),
    ({"num_frames": None}, "either .* or"),
    ({"num_frames": 0}, "num_frames must be positive"),
    ({"jpeg_quality": 100}, "from 1 to 95"),
    ({"sample_rate": -1}, "sample_rate must be positive"),
  ],
)
def test_wrong_encodings_are_explained(settings, message):
  with pytest.raises(ValueError, match=message):
    Encoding(**settings)


def test_a_modality_that_tfds_cannot_name_is_refused():
  with pytest.raises(ValueError, match="'a/b'"):
    features_of({"a/b": "text"})


def test_a_worker_that_dies_is_told():
  with pytest.raises(RuntimeError, match="a worker process died"):
    list(parallel.run_tasks(_die, None, [0], workers=2))


def _die(shared, task):
  os._exit(9)


def test_stopping_early_ends_the_workers_at_once():
  start = time.monotonic()
  tasks = parallel.run_tasks(_sleep_after_zero, None, range(4), workers=2)
  assert next(tasks) == 0
  tasks.close()
  assert time.monotonic() - start < 30


def _sleep_after_zero(shared, task):
  time.sleep(60 * task)
  return task


def test_workers_end_with_the_process_that_started_them(tmp_path):
  script = tmp_path / "script.py"
  script.write_text(
    "import os, time\n"
    "from pmrl_jax.data.manifest import parallel\n"
    "def work(shared, task):\n"
    "  print(os.getpid(), flush=True)\n"
    "  time.sleep(60)\n"
    "if __name__ == '__main__':\n"
    "  list(parallel.run_tasks(work, None, range(2), workers=2))\n"
  )
  with subprocess.Popen(
    [sys.executable, script], stdout=subprocess.PIPE, text=True
  ) as process:
    workers = {int(process.stdout.readline()) for _ in range(2)}
    assert len(workers) == 2 and process.pid not in workers
    process.send_signal(signal.SIGKILL)
    # The pipe ends when the last of them has ended.
    assert process.stdout.read() == ""
