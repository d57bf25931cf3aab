"""Runs that are stopped at any moment end as if nothing had happened."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import chex
import pytest

from experiments import workdir as workdirs
from pmrl_jax import training

TINY = Path(__file__).with_name("tiny_config.py")
RUN = Path("runs") / "tiny_config"  # the default workdir
STEPS = 60
# What depends on the clock.
TIMES = ("seconds", *training.THROUGHPUT)


def _last_row(workdir):
  """(step, kind) of the last row of metrics, or (-1, "")."""
  try:
    rows = training.read_metrics(workdir)
  except FileNotFoundError:
    rows = []
  return (rows[-1]["step"], rows[-1]["kind"]) if rows else (-1, "")


def _checkpoints(workdir):
  """The steps that are saved, and the names of what is being saved."""
  names = [path.name for path in (workdir / "checkpoints").glob("*")]
  done = sorted(int(name) for name in names if name.isdigit())
  return done, [name for name in names if not name.isdigit()]


@pytest.fixture
def stop(start):
  """`stop(folder, number, when)` starts a run and sends it a signal.

  The run is held while `when(workdir)` is looked at, so it gets the signal at
  that very moment. Returns its exit code and what it said.
  """

  def stop_run(folder, number, when):
    process = start("train", f"--config={TINY}", cwd=folder)
    try:
      while process.poll() is None:
        if when(folder / RUN):
          process.send_signal(signal.SIGSTOP)
          time.sleep(0.02)
          if when(folder / RUN):
            break
          process.send_signal(signal.SIGCONT)
        time.sleep(0.002)
      process.send_signal(number)
      process.send_signal(signal.SIGCONT)
      out, err = process.communicate(timeout=100)
    finally:
      process.kill()
    return process.returncode, out, err

  return stop_run


@pytest.fixture
def check_identical(tiny_folder, saved_state):
  """Checks that a run ended as the one that nothing disturbed."""

  def check(workdir):
    expected = tiny_folder / RUN
    chex.assert_trees_all_equal(
      saved_state(workdir, STEPS), saved_state(expected, STEPS)
    )
    rows, expected_rows = (
      [
        {name: value for name, value in row.items() if name not in TIMES}
        for row in training.read_metrics(folder)
      ]
      for folder in (workdir, expected)
    )
    assert rows == expected_rows
    summary, expected_summary = (
      json.loads((folder / "summary.json").read_text())
      for folder in (workdir, expected)
    )
    assert summary | {"seconds": 0} == expected_summary | {"seconds": 0}
    assert (workdir / "report.html").exists()
    # A kill before an old checkpoint is removed may leave it there for good,
    # but none that is not whole.
    done, partial = _checkpoints(workdir)
    assert done[-2:] == [STEPS - 4, STEPS] and not partial

  return check


def test_undisturbed_run_has_a_row_for_every_step(tiny_folder):
  rows = training.read_metrics(tiny_folder / RUN)
  steps = {
    kind: [row["step"] for row in rows if row["kind"] == kind]
    for kind in ("train", "eval")
  }
  assert steps["train"] == list(range(1, STEPS + 1))
  assert steps["eval"] == list(range(0, STEPS + 1, 20))


def test_folder_of_a_run_killed_at_its_very_start_is_taken(tmp_path, tiny):
  (tmp_path / ".lock").touch()
  (tmp_path / "config.json.partial").write_text('{"steps": ')
  with workdirs.claim(tmp_path, tiny):
    saved = workdirs.read_config(tmp_path)
  assert saved.to_json() == tiny.to_json()
  assert {path.name for path in tmp_path.iterdir()} == {".lock", "config.json"}


def _before_the_first_checkpoint(workdir):
  return _last_row(workdir)[0] >= 0 and not any(_checkpoints(workdir))


def _while_a_checkpoint_is_written(workdir):
  done, partial = _checkpoints(workdir)
  return len(done) >= 2 and bool(partial)


def _in_the_middle(workdir):
  return 30 <= _last_row(workdir)[0] < 50


def _before_the_report(workdir):
  done, partial = _checkpoints(workdir)
  saved = done[-1:] == [STEPS] and not partial
  return saved and not (workdir / "summary.json").exists()


@pytest.mark.slow
def test_run_killed_at_four_moments_ends_identical(
  tmp_path, write_arrays, stop, run, check_identical
):
  write_arrays(tmp_path)
  for when in (
    _before_the_first_checkpoint,
    _while_a_checkpoint_is_written,
    _in_the_middle,
    _before_the_report,
  ):
    code, _, err = stop(tmp_path, signal.SIGKILL, when)
    assert code == -signal.SIGKILL, (when, code, err)
    assert when(tmp_path / RUN)
    assert not (tmp_path / RUN / "report.html").exists()
  ended = run("train", f"--config={TINY}", cwd=tmp_path)
  assert ended.code == 0, ended.err
  assert f"resumed from step {STEPS} in {RUN}" in ended.out
  check_identical(tmp_path / RUN)
  sessions = [
    json.loads(line)
    for line in (tmp_path / RUN / "sessions.jsonl").read_text().splitlines()
  ]
  from_steps = [session["from_step"] for session in sessions]
  assert len(from_steps) == 5
  assert from_steps[:2] == [0, 0] and from_steps[4] == STEPS
  assert 0 < from_steps[2] <= from_steps[3] < 50


@pytest.mark.slow
def test_run_that_was_told_to_stop_saves_and_ends_identical(
  tmp_path, write_arrays, stop, run, check_identical
):
  write_arrays(tmp_path)
  workdir = tmp_path / RUN
  code, out, err = stop(tmp_path, signal.SIGTERM, _in_the_middle)
  assert code == 143, err
  said = re.fullmatch(
    r"SIGTERM: saved step (\d+) and stopped\. The same command goes on from "
    r"there\.\n",
    err,
  )
  assert said, err
  step = int(said[1])
  assert 30 <= step < STEPS
  done, partial = _checkpoints(workdir)
  assert done[-1] == step and not partial
  assert _last_row(workdir)[0] == step

  # Damage to the newest checkpoint costs the steps since the one before.
  damaged = tmp_path / "damaged"
  shutil.copytree(tmp_path, damaged, ignore=lambda *_: {"damaged"})
  for path in (damaged / RUN / "checkpoints" / str(step)).rglob("*"):
    if path.is_file():
      path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  for folder, expected in ((tmp_path, step), (damaged, done[-2])):
    ended = run("train", f"--config={TINY}", cwd=folder)
    assert ended.code == 0, ended.err
    assert f"resumed from step {expected} in {RUN}" in ended.out
    passed_over = f"note: passed over: checkpoint {step}: " in ended.out
    assert passed_over == (folder == damaged)
    check_identical(folder / RUN)
  assert (damaged / RUN / "checkpoints-damaged" / f"{step}-0").is_dir()
