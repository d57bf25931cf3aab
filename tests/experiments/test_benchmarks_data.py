"""The benchmark of loading data: that it measures what it says."""

import json
import math

import av
import numpy as np
import pytest

from experiments.benchmarks import (
  data,
  data_report,
  footage,
  overlap,
  readers,
  timing,
)
from experiments.benchmarks.cases import Skipped

SMALL = footage.Footage(64, 96, 0.5)
CASES = [readers.Clip("c", "c.mp4", num) for num in (2, 8)]


def timings(ours, published, name="torchcodec", skipped=None):
  """Of three readers on the first case, by rounds."""
  return [
    timing.Timing(CASES[0], readers.OURS, readers.PUBLISHED, ours),
    timing.Timing(CASES[0], readers.PUBLISHED, readers.PUBLISHED, published),
    timing.Timing(CASES[0], name, readers.PUBLISHED, {}, skipped=skipped),
  ]


# What is decoded.


def test_footage_is_the_same_whenever_it_is_drawn():
  first, again = (list(footage.pictures(SMALL)) for _ in range(2))
  assert len(first) == 15
  np.testing.assert_array_equal(first, again)
  other = next(footage.pictures(SMALL, seed=1))
  assert not np.array_equal(first[0], other)


def test_footage_moves_and_is_cut():
  pictures = np.stack(list(footage.pictures(SMALL._replace(seconds=12))))
  steps = np.abs(np.diff(pictures.astype(float), axis=0)).mean(axis=(1, 2, 3))
  assert steps.min() > 1
  assert steps.max() > 5 * np.median(steps)


def test_footage_is_encoded_once(tmp_path):
  path = footage.drawn(tmp_path / "new", SMALL)
  before = path.stat().st_mtime_ns
  assert footage.drawn(tmp_path / "new", SMALL).stat().st_mtime_ns == before
  assert [file.name for file in path.parent.iterdir()] == [SMALL.name]
  with av.open(str(path)) as container:
    assert container.streams.video[0].frames == 15


# Who decodes.


def test_readers_that_are_installed_return_the_same_frames(tmp_path):
  case = readers.Clip("c", str(footage.drawn(tmp_path, SMALL)), 4)
  taking_part = {}
  for contestant in readers.contestants():
    try:
      taking_part[contestant.name] = contestant.build(case)()
    except Skipped as reason:
      assert "install" in str(reason) or "fails" in str(reason)
  assert readers.OURS in taking_part
  for found in taking_part.values():
    readers.check_frames(found, taking_part["PyAV, everything"])


def test_a_wrong_frame_is_found():
  expected = np.random.default_rng(0).integers(
    0, 200, (3, 8, 8, 3), dtype=np.uint8
  )
  rounded = expected + np.uint8(readers.TOLERANCE)
  readers.check_frames(rounded, expected)
  wrong = expected.copy()
  wrong[1] = expected[2]
  with pytest.raises(Skipped, match="of 3, number 1 differs"):
    readers.check_frames(wrong, expected)
  with pytest.raises(Skipped, match="is expected"):
    readers.check_frames(expected[:2], expected)


def test_a_reader_of_wrong_frames_is_not_timed(tmp_path, monkeypatch):
  path = str(footage.drawn(tmp_path, SMALL))

  def late(path, num_frames):
    return readers._pyav(path, num_frames + 1)[1:]

  wrong = readers.Reader("late", "av", ("av",), late)
  monkeypatch.setattr(readers, "READERS", (wrong,))
  (found,) = timing.measure(
    readers.contestants(),
    readers.Clip("c", path, 2),
    rounds=1,
    max_seconds=9,
  )
  assert "returns other frames" in found.skipped
  assert not found.seconds


def test_an_absent_reader_is_named(monkeypatch):
  absent = readers.Reader("nobody", "no_such_module", ("no-such",), None)
  monkeypatch.setattr(readers, "READERS", (absent,))
  found = timing.measure(
    readers.contestants(), CASES[0], rounds=1, max_seconds=9
  )
  _, table = data_report.reader_tables(found)
  assert table.rows == [
    ["nobody", "all", "not installed (pip install no-such)"]
  ]
  assert data_report.in_words(readers.versions()) == (
    "readers: nobody: not installed"
  )


# What it is weighed against.


def test_ratios_are_medians_over_rounds_of_what_was_measured():
  found = timings({0: 1.0, 1: 4.0, 2: 2.0}, {0: 2.0, 1: 4.0, 2: 3.2})
  (goal,) = data_report.assess(found, [])
  assert goal.measured == 1.6 and goal.met
  (table,) = data_report.reader_tables(found[:2])
  assert table.rows[0][1].startswith("0.5 ±")  # clips per second
  assert table.rows[0][1].endswith("1.6 x")
  assert "x" not in table.rows[1][1]


def test_a_goal_that_is_missed_or_not_measured_is_said_to_be():
  (missed,) = data_report.assess(timings({0: 1.0}, {0: 1.4}), [])
  assert missed.met is False
  (unknown,) = data_report.assess(timings({0: 1.0}, {}), [])
  assert unknown.met is None


def test_what_is_hidden_is_what_does_not_lengthen_a_turn():
  def loop(turn, pace=1.0):
    return overlap.Overlap("threads", "timer", 2.0, pace, 3.0, turn)

  assert loop(3.0).hidden() == loop(3.0).busy() == 1
  assert loop(5.0).hidden() == 0
  assert loop(4.0).hidden() == 0.5 and loop(4.0).busy() == 0.75
  goals = data_report.assess([], [loop(3.2), loop(4.0), loop(4.0, pace=4.0)])
  assert [goal.met for goal in goals] == [True, False, None]
  slowed = loop(2.0)
  assert not slowed.is_sound()
  assert data_report.assess([], [slowed])[0].met is None
  setting = overlap.Setting(4, 2, 64, 8, 4, 2)
  (table,) = data_report.loop_tables([slowed, loop(4.0)], setting)
  assert [row[-2:] for row in table.rows] == [["–", "–"], ["50 %", "75 %"]]
  on_cpu = loop(3.0)._replace(device="cpu")
  assert not data_report.assess([], [on_cpu])


def test_the_emulated_device_takes_time_and_no_cpu():
  run = overlap._timer(0.05)
  assert overlap._seconds(run) >= 0.05


# The program.


@pytest.mark.parametrize(
  "flag,words",
  [
    ("--clip=missing.mp4", ["there is no file missing.mp4", "leave the flag"]),
    ("--frames=0", ["--frames must be integers of at least 1", "2,8,32"]),
    ("--size=480,854", ["--size must be a height", "'480,854'"]),
    ("--size=63,96,1", ["must be even", "63"]),
    ("--turns=-1", ["--turns must not be negative, got -1"]),
    ("--rounds=0", ["--rounds must be positive, got 0"]),
    (f"--markdown={__file__}", ["begin data on cpu"]),
  ],
)
def test_mistake_is_told_before_anything_is_drawn(call, tmp_path, flag, words):
  cache = tmp_path / "cache"
  ended = call(data.main, flag, f"--cache={cache}")
  assert ended.code == 2
  assert "Traceback" not in ended.err
  for word in words:
    assert word in ended.err
  assert not cache.exists()


@pytest.mark.slow
def test_readers_and_loops_are_timed_and_weighed(call, tmp_path, monkeypatch):
  monkeypatch.setattr(data, "_REAL", tmp_path / "none.mp4")
  output, page = tmp_path / "results.json", tmp_path / "page.md"
  ended = call(
    data.main,
    "--frames=1,3",
    "--size=64,96,0.5",
    "--rounds=2",
    "--turns=2",
    f"--cache={tmp_path / 'cache'}",
    f"--output={output}",
    f"--markdown={page}",
  )
  assert ended.code == 0, ended.err
  results = json.loads(output.read_text())
  assert set(results["readers"]) == {r.name for r in readers.READERS}
  by_case = {(r["num_frames"], r["name"]): r for r in results["timings"]}
  assert len(by_case) == 2 * len(readers.READERS)
  ours = by_case[3, readers.OURS]
  assert len(ours["seconds"]) == 2 and min(ours["seconds"]) > 0
  for row in results["timings"]:
    assert row["skipped"] or row["median_seconds"] == np.median(row["seconds"])
  published = by_case[3, readers.PUBLISHED]
  (goal,) = [g for g in results["goals"] if "3 frames" in g["text"]]
  if published["skipped"]:
    assert goal["measured"] is None and goal["met"] is None
  else:
    pairs = zip(published["seconds"], ours["seconds"], strict=True)
    assert math.isclose(goal["measured"], np.median([a / b for a, b in pairs]))
  loops = {(row["pipeline"], row["device"]): row for row in results["loops"]}
  assert set(loops) == {
    (p, d) for p in overlap.PIPELINES for d in overlap.DEVICES
  }
  for row in loops.values():
    assert min(row["loading"], row["pace"], row["step"], row["turn"]) > 0
    assert row["busy"] == row["step"] / row["turn"]
  busy = [g for g in results["goals"] if "busy" in g["text"]]
  for goal, pipeline in zip(busy, overlap.PIPELINES, strict=True):
    row = loops[pipeline, "timer"]
    fits = row["suffices"] and row["is_sound"]
    assert goal["measured"] == (row["busy"] if fits else None)
  text = page.read_text()
  for name, version in results["readers"].items():
    assert f"{name}: {version or 'not installed'}" in text
    assert name in ended.out
  assert "| goal | bound | measured | met |" in text
  assert "Loops as in training" in ended.out
