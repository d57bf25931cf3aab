"""The main job, shrunken: what a run leaves behind, and on what it runs."""

import json
import re
import shutil
from pathlib import Path

import chex
import jax
import ml_collections
import numpy as np
import pytest

from experiments import evaluate, train
from experiments.configs import four_modal, six_views, tri_modal
from pmrl_jax import training

TINY = Path(__file__).with_name("tiny_config.py")
STEPS = 12
COMMON = {
  "steps": STEPS,
  "batch_size": 32,
  "log_every": 3,
  "optimizer.warmup_steps": 2,
  "evaluation.every": 6,
  "checkpoint.every": 4,
  "model.dim": 8,
}
WIDTHS = {"width": 8, "depth": 1, "num_heads": 2}
MODALITIES = ("image", "speech", "text")
DIRECTIONS = {
  f"{query}->{other}"
  for query in MODALITIES
  for other in (*MODALITIES, "rest")
  if other != query
}
FIGURES = ("training", "retrieval", "spectrum", "joint_space", "retrieved")
# What depends on the clock.
TIMES = ("seconds", *training.THROUGHPUT)


def _shrink(config: ml_collections.ConfigDict, encoder: dict) -> dict:
  """The overrides that make a config small."""
  return COMMON | {
    f"model.encoders.{modality}.{name}": value
    for modality in config.data.modalities
    for name, value in encoder.items()
    if name in config.model.encoders[modality]
  }


def _small(get_config, encoder=WIDTHS, **changes) -> ml_collections.ConfigDict:
  config = get_config()
  config.update_from_flattened_dict(_shrink(config, encoder) | changes)
  return config


def _rows(workdir, kind):
  return [
    {name: value for name, value in row.items() if name not in TIMES}
    for row in training.read_metrics(workdir)
    if row["kind"] == kind
  ]


def _summary(folder):
  return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="session")
def command(once):
  """The arguments of the main job, but for its workdir."""
  overrides = _shrink(tri_modal.get_config(), WIDTHS)
  return (
    "--config=experiments/configs/tri_modal.py",
    *(f"--config.{name}={value}" for name, value in overrides.items()),
  )


@pytest.fixture(scope="session")
def main_job(once, run, command):
  """The workdir of the main job. Do not change it: take a `copy`."""

  def fill(folder):
    ended = run("train", *command, f"--workdir={folder / 'run'}")
    assert ended.code == 0, ended.err
    (folder / "out.txt").write_text(ended.out)
    (folder / "err.txt").write_text(ended.err)

  return once("main_job", fill) / "run"


@pytest.fixture
def copy(main_job, tmp_path):
  return shutil.copytree(main_job, tmp_path / "copy")


def test_run_leaves_everything_behind(main_job):
  names = {path.name for path in main_job.iterdir()} - {".lock"}
  assert names == {
    "config.json",
    "sessions.jsonl",
    "parameters.txt",
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    "summary.json",
    "report.html",
    *(f"{figure}.png" for figure in FIGURES),
  }
  saved = json.loads((main_job / "config.json").read_text())
  config = _small(tri_modal.get_config)
  assert saved == json.loads(config.to_json())
  assert list((main_job / "tensorboard").glob("events.*"))
  steps = {int(path.name) for path in (main_job / "checkpoints").iterdir()}
  assert {8, 12} <= steps <= {4, 8, 12}


def test_session_tells_what_it_ran_on(main_job):
  (line,) = (main_job / "sessions.jsonl").read_text().splitlines()
  session = json.loads(line)
  assert session["from_step"] == 0 and session["devices"] == "1 x cpu"
  assert f"--config.steps={STEPS}" in session["command"]
  assert {"pmrl_jax", "jax", "flax", "optax"} <= set(session["versions"])
  assert session["git_revision"] is None or re.match(
    r"[0-9a-f]{40}", session["git_revision"]
  )


def test_parameters_add_up(main_job, saved_state):
  *rows, total = (main_job / "parameters.txt").read_text().splitlines()[1:]
  sizes = [int(row.split()[-1].replace(",", "")) for row in rows]
  state = saved_state(main_job, STEPS)
  leaves = [np.size(leaf) for leaf in jax.tree.leaves(state["params"])]
  assert sorted(sizes) == sorted(leaves)
  assert int(total.split()[-1].replace(",", "")) == sum(leaves)


def test_metrics_have_a_row_for_everything_due(main_job):
  train_rows, eval_rows = _rows(main_job, "train"), _rows(main_job, "eval")
  assert [row["step"] for row in train_rows] == [3, 6, 9, 12]
  assert [row["step"] for row in eval_rows] == [0, 6, 12]
  weight = tri_modal.get_config().loss.instance_weight
  for row in train_rows:
    assert row["loss"] == pytest.approx(
      row["alignment"] + weight * row["instance"], rel=1e-4
    )
    assert row["skipped"] == 0 and row["grad_norm"] > 0
  for row in eval_rows:
    assert set(row["R@1"]) == DIRECTIONS
    assert len(row["spectrum"]) == len(MODALITIES)


def test_summary_holds_the_final_measures(main_job):
  summary = _summary(main_job)
  assert summary["steps"] == STEPS and summary["seconds"] > 0
  assert set(summary["retrieval"]) == DIRECTIONS
  for scores in summary["retrieval"].values():
    assert 0 <= scores["R@1"] <= scores["R@5"] <= scores["R@10"] <= 1
    assert scores["median_rank"] >= 1 and 0 < scores["mAP"] <= 1
  pairs = [
    scores["R@1"]
    for direction, scores in summary["retrieval"].items()
    if not direction.endswith("->rest")
  ]
  assert summary["mean_R@1"] == pytest.approx(np.mean(pairs))
  assert 0 <= summary["flipped_share"] <= 1
  assert set(summary["probe"]) == {*MODALITIES, "leading_direction"}
  last = _rows(main_job, "eval")[-1]
  assert last["mean_R@1"] == summary["mean_R@1"]
  assert last["spectrum"] == summary["spectrum"]


def test_report_opens_offline(main_job):
  page = (main_job / "report.html").read_text()
  assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!["']|data:|#)""", page)
  assert "@import" not in page and "<script" not in page
  assert page.count("data:image/png;base64,") == len(FIGURES)
  for figure in FIGURES:
    png = (main_job / f"{figure}.png").read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 5000


def test_console_shows_progress_then_table_then_report(main_job):
  lines = (main_job.parent / "out.txt").read_text().splitlines()
  steps = [line.split()[1] for line in lines if line.startswith("step ")]
  assert steps == ["6/12", "12/12"]
  assert lines[-1] == f"report: {main_job / 'report.html'}"
  table = lines[lines.index("") : -1]
  for name in (*MODALITIES, "leading_direction"):
    assert any(line.startswith(name) for line in table)
  mean = f"mean R@1 {_summary(main_job)['mean_R@1']:.3f}"
  assert any(mean in line for line in table)
  assert max(map(len, table)) <= 80
  assert (main_job.parent / "err.txt").read_text() == ""


def test_tensorflow_is_never_imported(main_job, environment):
  stub = environment["PYTHONPATH"].split(":")[0]
  assert (main_job / "summary.json").exists()
  assert not list(Path(stub).rglob("imported"))


def test_finished_run_is_not_trained_again(
  copy_of_tiny_folder, tiny_folder, run, saved_state
):
  here, there = (
    folder / "runs" / "tiny_config"
    for folder in (copy_of_tiny_folder, tiny_folder)
  )
  (here / "report.html").unlink()
  ended = run("train", f"--config={TINY}", cwd=copy_of_tiny_folder)
  assert ended.code == 0, ended.err
  assert "resumed from step 60 in runs/tiny_config" in ended.out
  assert "\nstep " not in ended.out
  assert ended.out.endswith("report: runs/tiny_config/report.html\n")
  assert (here / "report.html").exists()
  for name in ("metrics.jsonl", "summary.json", "config.json"):
    assert (here / name).read_bytes() == (there / name).read_bytes()
  chex.assert_trees_all_equal(saved_state(here, 60), saved_state(there, 60))
  assert len((here / "sessions.jsonl").read_text().splitlines()) == 2


def test_evaluation_repeats_the_summary(copy, run, main_job):
  for name in ("summary.json", "report.html", "retrieval.png"):
    (copy / name).unlink()
  ended = run("evaluate", f"--workdir={copy}")
  assert ended.code == 0, ended.err
  seconds = {"seconds": 0}
  assert _summary(copy) | seconds == _summary(main_job) | seconds
  assert (copy / "retrieval.png").exists()
  assert ended.out.endswith(f"report: {copy / 'report.html'}\n")


def test_evaluation_of_the_best_step_goes_where_it_should(
  call, copy_of_tiny_folder, tree
):
  workdir = copy_of_tiny_folder / "runs" / "tiny_config"
  before = tree(workdir)
  ended = call(
    evaluate.main, f"--workdir={workdir}", "--step=best", "--output=best"
  )
  assert ended.code == 0, ended.err
  saved = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
  scores = {
    row["step"]: row["mean_R@1"]
    for row in _rows(workdir, "eval")
    if row["step"] in saved
  }
  output = copy_of_tiny_folder / "best"
  best = _summary(output)
  assert scores[best["steps"]] == max(scores.values())
  assert best["mean_R@1"] == pytest.approx(max(scores.values()), abs=0.05)
  assert (output / "report.html").exists()
  assert tree(workdir) == before


def test_eight_devices_train_as_one(tiny_folder, tiny, here):
  train.train(tiny, here / "run")
  session = json.loads((here / "run" / "sessions.jsonl").read_text())
  assert session["devices"] == "8 x cpu"
  one = _rows(tiny_folder / "runs" / "tiny_config", "train")
  eight = _rows(here / "run", "train")
  assert len(one) == len(eight) == 60
  # Rounding differs, and the steps make it grow.
  for steps, tolerance in ((slice(10), 1e-4), (slice(60), 5e-3)):
    for row, other in zip(one[steps], eight[steps]):
      for name in ("loss", "alignment", "instance", "grad_norm"):
        assert row[name] == pytest.approx(other[name], rel=tolerance)


@pytest.mark.slow
def test_four_modalities_train(tmp_path):
  config = _small(four_modal.get_config, **{"evaluation.every": STEPS})
  # Spectrograms are the main job's; this compiles in half the time.
  config.model.encoders.speech = {"kind": "table", "width": 8, "depth": 1}
  train.train(config, tmp_path / "run")
  summary = _summary(tmp_path / "run")
  assert summary["modalities"] == ["image", "speech", "text", "pen"]
  assert len(summary["retrieval"]) == 16
  assert len(summary["spectrum"]) == 4


@pytest.mark.slow
def test_six_views_train_in_bfloat16(tmp_path, saved_state):
  config = _small(
    six_views.get_config,
    {"width": 8},
    precision="bfloat16",
    **{"evaluation.every": STEPS},
  )
  train.train(config, tmp_path / "run")
  summary = _summary(tmp_path / "run")
  assert summary["level"] == "instance"
  assert summary["num_instances"] == 600
  # Computed in half precision, kept in full.
  state = saved_state(tmp_path / "run", STEPS)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(state["params"])} == {
    "float32"
  }


def test_own_arrays_train_with_modalities_absent(here, write_arrays, tiny):
  def present(rows):
    where = np.ones((len(rows), 2), bool)
    where[::4, 0] = False
    where[1::4, 1] = False
    return where

  def absent_are_nan(column):
    def values(rows):
      values = rows.copy()
      values[~present(rows)[:, column]] = np.nan
      return values

    return values

  write_arrays(
    here,
    a=absent_are_nan(0),
    b=absent_are_nan(1),
    where=present,
    labels=lambda rows: (rows[:, 0] > 0).astype(np.int64),
  )
  tiny.update_from_flattened_dict({"steps": 6, "evaluation.level": "class"})
  with pytest.raises(ValueError, match="incomplete .a 24 of 32, b 24 of 32."):
    train.train(tiny, here / "run")
  assert not (here / "run").exists()
  tiny.evaluation.allow_missing = True
  train.train(tiny, here / "run")
  rows = training.read_metrics(here / "run")
  assert "null" not in (here / "run" / "metrics.jsonl").read_text()
  assert [row["skipped"] for row in rows if row["kind"] == "train"] == [0] * 6
  summary = _summary(here / "run")
  scores = summary["retrieval"]["a->b"]
  assert scores["num_queries"] + scores["num_unmatched"] == 24
  assert scores["num_gallery"] == 24
  assert scores["coverage"] == 0.5
  assert set(summary["probe"]) == {"a", "b", "leading_direction"}
  page = (here / "run" / "report.html").read_text()
  assert "25.0% of the embeddings are absent" in page
