"""Metrics files: what is written, and what a resumed run keeps."""

import json

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from pmrl_jax import training


def _write(folder, steps, start=0):
  writer = training.MetricsWriter(folder, step=start)
  for step in steps:
    writer.write("train", step, {"loss": np.float32(1 / step)})
  writer.close()


def test_rows_come_back_as_they_were_written(tmp_path):
  writer = training.MetricsWriter(tmp_path)
  writer.write("eval", 3, {"R@1": {"a->b": 0.5}, "spectrum": [1.5, 0.1]})
  writer.write("train", 4, {"loss": np.float32(2), "skipped": np.int32(1)})
  writer.close()
  first, second = training.read_metrics(tmp_path)
  assert first["R@1"] == {"a->b": 0.5} and first["spectrum"] == [1.5, 0.1]
  assert (second["kind"], second["step"], second["loss"]) == ("train", 4, 2.0)


def test_values_that_are_not_finite_stay_valid_json(tmp_path):
  writer = training.MetricsWriter(tmp_path)
  writer.write("train", 1, {"loss": float("nan"), "norm": np.float32("inf")})
  writer.close()
  (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
  row = json.loads(line, parse_constant=lambda name: pytest.fail(name))
  assert row["loss"] is None and row["norm"] is None


def test_resumed_writer_drops_later_rows_and_a_torn_line(tmp_path):
  _write(tmp_path, range(1, 8))
  with (tmp_path / "metrics.jsonl").open("a") as file:
    file.write('{"kind": "train", "st')
  _write(tmp_path, range(5, 10), start=4)
  steps = [row["step"] for row in training.read_metrics(tmp_path)]
  assert steps == list(range(1, 10))


def test_seconds_go_on_from_the_rows_that_are_kept(tmp_path):
  _write(tmp_path, [1])
  path = tmp_path / "metrics.jsonl"
  row = json.loads(path.read_text()) | {"seconds": 1000.0}
  path.write_text(json.dumps(row) + "\n")
  _write(tmp_path, [2], start=1)
  assert 1000 <= training.read_metrics(tmp_path)[-1]["seconds"] < 1100


def test_damage_in_the_middle_of_the_file_is_explained(tmp_path):
  _write(tmp_path, [1, 2])
  path = tmp_path / "metrics.jsonl"
  path.write_text("garbage\n" + path.read_text())
  with pytest.raises(ValueError, match="line 1 is not JSON"):
    training.read_metrics(tmp_path)


def _scalars(folder):
  """Reads TensorBoard's record files: length, checksum, event, checksum."""
  found = {}
  for path in sorted((folder / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], "little")
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for value in event.summary.value:
        found[value.tag, event.step] = value.simple_value
  return found


def test_tensorboard_gets_the_same_scalars(tmp_path):
  writer = training.MetricsWriter(tmp_path)
  writer.write("eval", 7, {"R@1": {"a->b": 0.5}, "spectrum": [1.5, 0.25]})
  writer.close()
  assert _scalars(tmp_path) == {
    ("eval/R_1/a_to_b", 7): 0.5,
    ("eval/spectrum_1", 7): 1.5,
    ("eval/spectrum_2", 7): 0.25,
  }
