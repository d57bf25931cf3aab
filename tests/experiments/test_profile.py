"""`--profile` of the training program."""

from pathlib import Path

import pytest

from experiments import train

TINY = Path(__file__).with_name("tiny_config.py")


@pytest.fixture
def start_run(here, call):
  def run(profile):
    return call(
      train.main,
      f"--config={TINY}",
      "--config.steps=4",
      "--config.evaluation.every=4",
      "--workdir=run",
      f"--profile={profile}",
    )

  return run


def test_steps_are_traced_into_the_workdir(start_run, here, check_mistake):
  ended = start_run("2:4")
  assert ended.code == 0, ended.err
  (trace,) = (here / "run" / "profile").rglob("*.xplane.pb")
  content = trace.read_bytes()
  assert b"train_step" in content and b"step_num" in content
  # The second time there is nothing left to trace.
  again = start_run("2:4")
  assert again.code == 2 and "nothing was profiled" in again.err


@pytest.mark.parametrize(
  ("profile", "message"),
  [
    ("2", "must be START:STOP, as 100:103"),
    ("4:2", "must start before they stop, got '4:2'"),
    ("3:6", "must be within 1:5"),
    ("", "must be START:STOP"),
  ],
)
def test_steps_that_cannot_be_traced_are_explained(
  start_run, here, check_mistake, profile, message
):
  check_mistake(start_run(profile), "profile", message)
  assert not (here / "run").exists()
