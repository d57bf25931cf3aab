"""Mistakes about workdirs and checkpoints: one message, nothing is touched."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from experiments import cli, evaluate, train
from experiments import workdir as workdirs

TINY = Path(__file__).with_name("tiny_config.py")


def test_workdir_of_another_config_names_what_differs(
  call, copy_of_tiny_folder, tree, check_mistake
):
  before = tree(copy_of_tiny_folder)
  ended = call(
    train.main,
    f"--config={TINY}",
    "--config.seed=7",
    "--config.loss.solver=svd",
  )
  check_mistake(
    ended,
    "runs/tiny_config holds a run with another config",
    "seed: 0 there, 7 now",
    "loss.solver: 'gram' there, 'svd' now",
    "Choose another --workdir",
  )
  assert "batch_size" not in ended.err
  assert tree(copy_of_tiny_folder) == before


@pytest.mark.parametrize(
  ("workdir", "fragments"),
  [
    ("train.npz", ["cannot be a folder", "train.npz is a file"]),
    ("train.npz/run", ["train.npz/run cannot be a folder", "is a file"]),
    (".", ["is not empty and holds no run", "config.json"]),
    ("theirs", ["theirs holds no run", "config.json is something else"]),
    ("torn", ["torn/config.json cannot be read"]),
  ],
)
@pytest.mark.parametrize(
  "program", [train, evaluate], ids=["train", "evaluate"]
)
def test_folder_that_is_no_run_is_refused(
  workdir, fragments, program, call, here, tree, check_mistake
):
  (here / "theirs").mkdir()
  (here / "theirs" / "config.json").write_text('{"model_type": "other"}')
  (here / "torn").mkdir()
  (here / "torn" / "config.json").write_text('{"steps": 6')
  before = tree(here)
  arguments = [f"--config={TINY}"] if program is train else []
  ended = call(program.main, *arguments, f"--workdir={workdir}")
  if program is train or workdir in ("theirs", "torn"):
    check_mistake(ended, *fragments)
  else:
    check_mistake(
      ended, f"{workdir} holds no run: there is no config.json in it"
    )
  assert tree(here) == before


def test_workdir_in_use_is_refused(
  call, copy_of_tiny_folder, tiny, tree, check_mistake
):
  before = tree(copy_of_tiny_folder)
  with workdirs.claim(Path("runs") / "tiny_config", tiny):
    ended = call(train.main, f"--config={TINY}")
  check_mistake(
    ended, "another process is training in runs/tiny_config", "wait"
  )
  assert tree(copy_of_tiny_folder) == before


def _damage(workdir, *steps):
  for step in steps:
    for path in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
      if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _steps(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(
  call, copy_of_tiny_folder, tree, check_mistake
):
  workdir = copy_of_tiny_folder / "runs" / "tiny_config"
  _damage(workdir, *_steps(workdir))
  before = tree(copy_of_tiny_folder)
  ended = call(train.main, f"--config={TINY}")
  check_mistake(
    ended, "none of the checkpoints", *map(str, _steps(workdir)), "copy"
  )
  assert tree(copy_of_tiny_folder) == before


def test_evaluation_of_a_damaged_checkpoint_names_the_others(
  call, copy_of_tiny_folder, tree, check_mistake
):
  workdir = copy_of_tiny_folder / "runs" / "tiny_config"
  steps = _steps(workdir)
  _damage(workdir, steps[-1])
  before = tree(copy_of_tiny_folder)
  ended = call(evaluate.main, f"--workdir={workdir}")
  check_mistake(
    ended, f"checkpoint of step {steps[-1]}", "is damaged", str(steps)
  )
  assert tree(copy_of_tiny_folder) == before


def test_evaluation_of_what_is_not_there_is_explained(
  call, copy_of_tiny_folder, tree, check_mistake
):
  workdir = Path("runs") / "tiny_config"
  before = tree(copy_of_tiny_folder)
  check_mistake(
    call(evaluate.main, "--workdir=runs/none"), "runs/none holds no run"
  )
  for step in ("7", "-1", "newest", "1e2"):
    ended = call(evaluate.main, f"--workdir={workdir}", f"--step={step}")
    check_mistake(
      ended, f"latest, best or one of {_steps(workdir)}, got {step!r}"
    )
  ended = call(evaluate.main, f"--workdir={workdir}", "--output=train.npz")
  check_mistake(ended, "--output is a file, train.npz")
  config, start = f"--config={TINY}", "--config.init_from=nowhere"
  for arguments, fragment in (
    ([], "expected either --workdir"),
    ([config, f"--workdir={workdir}"], "expected either --workdir"),
    ([config], "expected --output"),
    ([config, "--output=new"], "config.init_from is empty"),
    ([config, "--output=new", start], "names nowhere, which is no folder"),
  ):
    check_mistake(call(evaluate.main, *arguments), fragment)
  assert tree(copy_of_tiny_folder) == before
  shutil.rmtree(workdir / "checkpoints")
  check_mistake(
    call(evaluate.main, f"--workdir={workdir}"),
    "runs/tiny_config has no checkpoints yet; train it first",
  )


def test_loss_that_is_not_finite_ends_with_a_code_of_its_own(
  call, here, write_arrays
):
  # Finite in the file; its square, which layer normalisation takes, is not.
  write_arrays(
    here, a=lambda rows: rows * np.float32(1e30 if len(rows) == 64 else 1)
  )
  ended = call(train.main, f"--config={TINY}", "--config.max_skipped=2")
  assert ended.code == cli.NON_FINITE
  assert ended.err.startswith("error: 2 steps in a row had no finite loss")
  assert "step 2" in ended.err and "Traceback" not in ended.err
  folder = here / "runs" / "tiny_config" / "failure" / "step_2"
  assert str(folder.relative_to(here)) in ended.err
  assert {path.name for path in folder.iterdir()} == {
    "batch.npz",
    "metrics.json",
    "state",
  }
  metrics = json.loads((folder / "metrics.json").read_text())
  assert not np.isfinite(metrics["loss"] * metrics["grad_norm"])


def test_program_explains_mistakes(run, here, tree, check_mistake):
  before = tree(here)
  unknown = run("train", f"--config={TINY}", "--config.stpes=3", cwd=here)
  check_mistake(unknown, "no key stpes; did you mean steps?")
  missing = run("train", "--config=nope.py", "--config.steps=3", cwd=here)
  check_mistake(missing, "nope.py does not exist", "tri_modal.py")
  assert tree(here) == before and not (here / "runs").exists()


def test_program_refuses_the_workdir_of_another_config(
  run, copy_of_tiny_folder, tree, check_mistake
):
  before = tree(copy_of_tiny_folder)
  ended = run(
    "train", f"--config={TINY}", "--config.seed=7", cwd=copy_of_tiny_folder
  )
  check_mistake(ended, "seed: 0 there, 7 now")
  assert tree(copy_of_tiny_folder) == before
