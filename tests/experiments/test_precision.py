"""Runs in float16: the scale of the loss is kept over a resume."""

from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import build, train
from pmrl_jax import training

TINY = Path(__file__).with_name("tiny_config.py")
STEPS = 8


@pytest.fixture
def start_run(here, call):
  def run(workdir, *arguments):
    return call(
      train.main,
      f"--config={TINY}",
      "--config.precision=float16",
      f"--config.steps={STEPS}",
      "--config.evaluation.every=8",
      f"--workdir={workdir}",
      *arguments,
    )

  return run


def _scales(folder):
  return [
    row["loss_scale"]
    for row in training.read_metrics(folder)
    if row["kind"] == "train"
  ]


@pytest.mark.slow
def test_a_run_in_float16_goes_on_with_its_scale(
  start_run, here, saved_state, monkeypatch
):
  # It grows often, so that what a resume lost would show.
  monkeypatch.setattr(
    build.training,
    "make_loss_scale",
    lambda make=training.make_loss_scale: make(initial=2.0, growth_interval=1),
  )
  ended = start_run("whole")
  assert ended.code == 0, ended.err
  assert ended.out.count("loss_scale") == 0  # no term of the loss
  state = saved_state(here / "whole", STEPS)
  for leaf in jax.tree.leaves(state["params"]):
    assert leaf.dtype == np.float32 and np.isfinite(leaf).all()
  scales = _scales(here / "whole")
  assert scales == [2, 2, 4, 4, 8, 8, 16, 16]
  assert state["loss_scale"]["scale"] == 32

  # As if it had been killed after its first checkpoint, of step 4.
  folder = here / "whole" / "checkpoints"
  assert (folder / "4").is_dir()
  (folder / str(STEPS)).rename(here / "taken_away")
  again = start_run("whole")
  assert "resumed from step 4" in again.out, again
  assert _scales(here / "whole") == scales
  for one, two in zip(
    jax.tree.leaves(state),
    jax.tree.leaves(saved_state(here / "whole", STEPS)),
  ):
    np.testing.assert_array_equal(one, two)
