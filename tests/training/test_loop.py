"""The loop: interruptions, broken steps, what is written when."""

import contextlib
import functools
import io
import json
import signal
import sys
import threading
import time
from types import SimpleNamespace

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pmrl_jax import training

MAX_SKIPPED = 3
SCHEDULE = training.Schedule(
  steps=12, log_every=1, eval_every=5, checkpoint_every=4
)
# What depends on the clock.
TIMES = ("seconds", *training.THROUGHPUT)


class Batches:
  """Batch i belongs to step i + 1; some are bad, some send signals."""

  def __init__(self, bad=(), signals=None):
    self._bad = bad
    self._signals = signals or {}
    self._sent, self._handler = set(), None

  def __len__(self):
    return 1000

  def __getitem__(self, index):
    for number in self._signals.get(index + 1, ()):
      # One at a time: two that come before the main thread looks are one.
      while number in self._sent and signal.getsignal(number) is self._handler:
        time.sleep(0.01)
      self._sent.add(number)
      self._handler = signal.getsignal(number)
      # To the main thread, which is waked by it where it waits for a batch.
      signal.pthread_kill(threading.main_thread().ident, number)
    inputs = np.random.default_rng(index).normal(size=(8, 4))
    inputs = inputs.astype(np.float32)
    if index + 1 in self._bad:
      inputs[2, 1] = np.inf
    return {"inputs": {"a": inputs}, "row": np.arange(8)}


def _objective(params, batch, key):
  noise = jax.random.normal(key, ())
  outputs = batch["inputs"]["a"] @ params["w"]
  return jnp.mean((outputs - 1 + 0.1 * noise) ** 2), {"noise": noise}


@functools.cache
def _compiled(num_steps):
  """The optimizer and the step; compiled once for all runs of a length."""
  mesh = training.make_mesh(devices=jax.devices()[:1])
  optimizer, learning_rate = training.make_optimizer(
    learning_rate=0.1, steps=num_steps
  )
  step = training.make_train_step(
    _objective,
    optimizer,
    schedule=learning_rate,
    seed=0,
    max_skipped=MAX_SKIPPED,
    mesh=mesh,
  )
  return optimizer, step, mesh


@contextlib.contextmanager
def _run(folder, batches, schedule=SCHEDULE):
  """All that `fit` takes, as a new process would build it."""
  optimizer, train_step, mesh = _compiled(schedule.steps)
  state = training.create_state({"w": jnp.ones((4, 2))}, optimizer)
  state = training.replicate(state, mesh)
  # No threads, so that a signal comes in the middle of its step.
  options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  iterator = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
  checkpointer = training.Checkpointer(folder / "checkpoints")
  step = 0
  if restored := checkpointer.restore(state, iterator):
    step, state, _ = restored
  writer = training.MetricsWriter(folder, step=step)
  try:
    yield {
      "state": state,
      "start": step,
      "schedule": schedule,
      "train_step": train_step,
      "iterator": iterator,
      "to_device": lambda batch: training.shard_batch(batch, mesh),
      "evaluate": lambda params: {"mean_R@1": float(jnp.sum(params["w"]))},
      "checkpointer": checkpointer,
      "writer": writer,
      "max_skipped": MAX_SKIPPED,
      "failure_folder": folder / "failure",
    }
  finally:
    writer.close()
    checkpointer.close()


def _fit(folder, batches, **options):
  with _run(folder, batches, **options) as parts:
    return jax.device_get(training.fit(**parts))


def _rows(folder, *without):
  rows = training.read_metrics(folder)
  return [{k: v for k, v in row.items() if k not in without} for row in rows]


def _saved(folder, step):
  """The state in one checkpoint of a run."""
  with _run(folder, Batches()) as parts:
    state = parts["checkpointer"].restore_step(step, parts["state"])
    return jax.device_get(state)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  """The rows and the last state of a run that nothing happened to."""
  folder = tmp_path_factory.mktemp("undisturbed")
  state = _fit(folder, Batches())
  return SimpleNamespace(state=state, rows=_rows(folder, *TIMES))


# Before the first checkpoint, between two, at an evaluation, at the end.
@pytest.mark.parametrize(
  ("number", "step"),
  [
    (signal.SIGTERM, 1),
    (signal.SIGTERM, 6),
    (signal.SIGINT, 10),
    (signal.SIGTERM, 12),
  ],
)
def test_signal_saves_the_step_and_the_run_goes_on_from_it(
  tmp_path, undisturbed, number, step
):
  handler = signal.getsignal(number)
  with pytest.raises(training.Interrupted) as caught:
    _fit(tmp_path, Batches(signals={step: [number]}))
  assert (caught.value.signal_number, caught.value.step) == (number, step)
  assert str(caught.value) == f"{number.name}: saved step {step} and stopped"
  assert signal.getsignal(number) is handler
  assert int(_saved(tmp_path, step).step) == step
  # Resumes after the saved step: the batch that sends is not read again.
  resumed = _fit(tmp_path, Batches(signals={step: [number]}))
  chex.assert_trees_all_equal(resumed, undisturbed.state)
  assert _rows(tmp_path, *TIMES) == undisturbed.rows


def test_second_interrupt_does_not_wait_for_the_step(tmp_path):
  twice = [signal.SIGINT, signal.SIGINT]
  with pytest.raises(KeyboardInterrupt):
    _fit(tmp_path, Batches(signals={3: twice}))
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_finished_run_takes_no_further_step(tmp_path, undisturbed):
  _fit(tmp_path, Batches())
  metrics = (tmp_path / "metrics.jsonl").read_bytes()
  again = _fit(tmp_path, Batches(bad=range(1000)))
  chex.assert_trees_all_equal(again, undisturbed.state)
  assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_rows_tell_every_step_and_every_evaluation_once(undisturbed):
  steps = {"train": [], "eval": []}
  for row in undisturbed.rows:
    steps[row["kind"]].append(row["step"])
  assert steps == {"train": list(range(1, 13)), "eval": [0, 5, 10, 12]}


def test_last_step_is_evaluated_logged_and_saved_in_any_case(tmp_path):
  rarely = training.Schedule(
    steps=3, log_every=100, eval_every=100, checkpoint_every=100
  )
  state = _fit(tmp_path, Batches(), schedule=rarely)
  rows = [(row["kind"], row["step"]) for row in _rows(tmp_path)]
  assert rows == [("eval", 0), ("train", 3), ("eval", 3)]
  chex.assert_trees_all_equal(_saved(tmp_path, 3).params, state.params)


def test_skipped_steps_below_the_limit_are_counted_and_passed(tmp_path):
  bad = (2, 3, 7)
  state = _fit(tmp_path, Batches(bad=bad))
  assert int(state.skipped) == len(bad) and int(state.skipped_in_a_row) == 0
  assert np.isfinite(state.params["w"]).all()
  rows = [row for row in _rows(tmp_path) if row["kind"] == "train"]
  assert [r["skipped"] for r in rows] == [0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3]
  assert [r["skipped_in_a_row"] for r in rows][:8] == [0, 1, 2, 0, 0, 0, 1, 0]
  assert [r["step"] for r in rows if r["loss"] is None] == list(bad)


# Between two checks, at a checkpoint, at an evaluation, at the end.
@pytest.mark.parametrize("step", [7, 8, 10, 12])
def test_too_many_skipped_steps_stop_the_run_and_can_be_repeated(
  tmp_path, step
):
  bad = range(step - MAX_SKIPPED + 1, step + 1)
  with pytest.raises(training.NonFiniteError) as caught:
    _fit(tmp_path, Batches(bad=bad))
  folder = tmp_path / "failure" / f"step_{step}"
  message = str(caught.value)
  assert f"{MAX_SKIPPED} steps in a row" in message
  assert f"the last was step {step} (loss" in message
  assert str(folder) in message

  # The step, run again from nothing but what was left.
  template = _saved(tmp_path, 4)
  with ocp.StandardCheckpointer() as reader:
    before = reader.restore((folder / "state").absolute(), template)
  assert int(before.step) == step - 1
  with np.load(folder / "batch.npz", allow_pickle=False) as file:
    batch = {"inputs": {"a": file["inputs/a"]}, "row": file["row"]}
  chex.assert_trees_all_equal(batch, Batches(bad=bad)[step - 1])
  params = jax.device_get(before.params)
  _, train_step, mesh = _compiled(SCHEDULE.steps)
  after, metrics = train_step(
    training.replicate(before, mesh), training.shard_batch(batch, mesh)
  )
  assert not np.isfinite(metrics["loss"])
  assert int(after.step) == step
  saved = json.loads((folder / "metrics.json").read_text())
  np.testing.assert_equal({k: float(v) for k, v in metrics.items()}, saved)
  chex.assert_trees_all_equal(jax.device_get(after.params), params)
  if bad[0] == 5:  # step 4 was good, and saved
    chex.assert_trees_all_equal(params, template.params)


def test_broken_run_breaks_again_at_the_same_step(tmp_path):
  bad = range(5, 1000)
  for _ in range(2):
    with pytest.raises(training.NonFiniteError, match="last was step 7 "):
      _fit(tmp_path, Batches(bad=bad))
  steps = [row["step"] for row in _rows(tmp_path) if row["kind"] == "train"]
  assert steps == list(range(1, 8))


def test_without_a_terminal_there_is_a_line_per_evaluation(tmp_path, capsys):
  _fit(tmp_path, Batches())
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines] == ["5/12", "10/12", "12/12"]
  for line in lines:
    for name in ("loss", "noise", "mean_R@1", "steps/s"):
      assert f"{name} " in line


def test_on_a_terminal_there_is_a_bar(tmp_path, capsys, monkeypatch):
  class Terminal(io.StringIO):
    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  _fit(tmp_path, Batches())
  assert capsys.readouterr().out == ""
  last = terminal.getvalue().split("\r")[-1]
  for text in ("12/12", "step/s", "loss=", "noise=", "mean_R@1="):
    assert text in last


@pytest.mark.parametrize("name", SCHEDULE._fields)
def test_schedule_must_be_positive(name):
  training.check_schedule(SCHEDULE)
  with pytest.raises(ValueError, match=f"{name} must be at least 1 step, got"):
    training.check_schedule(SCHEDULE._replace(**{name: 0}))
