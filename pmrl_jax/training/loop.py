"""The training loop: steps, evaluations, checkpoints, interruptions.

Of several processes each runs the same loop on its part of the batches. They
save together, and a signal to one of them stops all after the same step.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import tqdm
from jax.experimental import multihost_utils

from pmrl_jax.training.checkpoint import Checkpointer
from pmrl_jax.training.state import TrainState
from pmrl_jax.training.throughput import THROUGHPUT, Throughput
from pmrl_jax.training.writers import MetricsWriter


class Schedule(NamedTuple):
  """When the loop does what, in steps."""

  steps: int  # of the whole run
  log_every: int
  eval_every: int
  checkpoint_every: int


def check_schedule(schedule: Schedule) -> None:
  """Checks that all numbers of a schedule are positive.

  Raises:
    ValueError: If one is not.
  """
  for name, value in schedule._asdict().items():
    if value < 1:
      raise ValueError(f"{name} must be at least 1 step, got {value}")


class Interrupted(Exception):
  """A signal asked the run to stop; its state was saved first."""

  def __init__(self, signal_number: int, step: int):
    """Keeps which signal it was and the step that was saved."""
    self.signal_number = signal_number
    self.step = step
    name = signal.Signals(signal_number).name
    super().__init__(f"{name}: saved step {step} and stopped")


class NonFiniteError(RuntimeError):
  """Too many steps in a row had a loss or a gradient that is not finite."""


def fit(
  state: TrainState,
  *,
  start: int,
  schedule: Schedule,
  train_step: Callable,
  iterator: Iterator[Mapping[str, Any]],
  to_device: Callable[[Mapping[str, Any]], Any],
  evaluate: Callable[[Any], Mapping[str, Any]],
  checkpointer: Checkpointer,
  writer: MetricsWriter | None,
  max_skipped: int,
  failure_folder: Path,
) -> TrainState:
  """Trains from step `start` to the end of the schedule.

  Args:
    state: The state after `start` steps; its buffers are donated.
    start: Steps taken so far.
    schedule: When to log, evaluate and save.
    train_step: From `make_train_step`.
    iterator: Host batches; its position is saved with every checkpoint.
    to_device: Turns a host batch into what `train_step` takes.
    evaluate: Parameters -> metrics; run before the first step, every
      `eval_every` steps and at the end.
    checkpointer: Where states go; the last one is saved in any case.
    writer: Where metrics go; of several processes only one has one.
    max_skipped: As given to `make_train_step`.
    failure_folder: Where the state and the batch go if the run breaks.

  Returns:
    The state after the last step.

  Raises:
    Interrupted: After SIGTERM or SIGINT, to any of the processes, when the
      state has been saved.
    NonFiniteError: After `max_skipped` steps in a row without a finite loss
      and gradient; names the step and the folder with state and batch.
  """
  previous: tuple[Any, Any] | None = None  # batch and metrics of the last step

  def write(kind: str, step: int, row: Mapping[str, Any]) -> None:
    if writer is not None:
      writer.write(kind, step, row)

  with _signals() as received, _Progress(schedule.steps, start) as progress:
    meter = progress.meter
    if start == 0:  # where the curves begin
      with progress.paused():
        write("eval", 0, evaluate(state.eval_params))
    for step in range(start + 1, schedule.steps + 1):
      with meter.waiting():
        batch = next(iterator)
      inputs = to_device(batch)
      meter.observe(train_step, state, inputs)
      state, metrics = train_step(state, inputs)
      del inputs  # or the next batch would lie beside it
      # The step before has ended by now: looking at it stalls nothing, and a
      # broken state stands still until it is looked at.
      if previous is not None:
        _check(*previous, state, max_skipped, failure_folder)
      previous = (batch, metrics)

      last = step == schedule.steps
      if last or step % schedule.log_every == 0:
        row: dict[str, Any] = dict(jax.device_get(metrics))
        row |= meter.read(step)
        write("train", step, row)
        progress.show(step, row)
      results = None
      if last or step % schedule.eval_every == 0:
        _check(batch, metrics, state, max_skipped, failure_folder)
        with progress.paused():
          results = evaluate(state.eval_params)
        write("eval", step, results)
        progress.report(step, results)
      # Looked at once: a signal after this line waits for the next step.
      stop = _stopped_by(received, step)
      if last or stop or step % schedule.checkpoint_every == 0:
        _check(batch, metrics, state, max_skipped, failure_folder)
        checkpointer.save(step, state, iterator, _comparable(results))
      if stop:
        checkpointer.wait()
        raise Interrupted(stop, step)
  checkpointer.wait()
  return state


def _comparable(results: Mapping[str, Any] | None) -> dict[str, float] | None:
  """The scalars of an evaluation, by which checkpoints are ranked."""
  if results is None:
    return None
  return {
    name: float(value)
    for name, value in results.items()
    if isinstance(value, int | float)
  }


def _check(
  batch: Any,
  metrics: Mapping[str, jax.Array],
  state: TrainState,
  max_skipped: int,
  folder: Path,
) -> None:
  """Stops the run, with what is needed to see why, if it is broken."""
  if int(metrics["skipped_in_a_row"]) < max_skipped:
    return
  step = int(state.step)
  folder = folder / f"step_{step}"
  folder.mkdir(parents=True, exist_ok=True)
  values = {name: float(value) for name, value in metrics.items()}
  index, count = jax.process_index(), jax.process_count()
  if index == 0:
    (folder / "metrics.json").write_text(json.dumps(values, indent=2))
  flat = jax.tree_util.tree_flatten_with_path(batch)[0]
  arrays: dict[str, Any] = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(value)
    for path, value in flat
  }
  # Of several processes each has a part of it.
  name = "batch.npz" if count == 1 else f"batch.{index}.npz"
  np.savez_compressed(folder / name, **arrays)
  # As it was before the step, which changed nothing but the counts.
  before = state._replace(
    step=state.step - 1,
    skipped=state.skipped - 1,
    skipped_in_a_row=state.skipped_in_a_row - 1,
  )
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save((folder / "state").absolute(), before, force=True)
  raise NonFiniteError(
    f"{max_skipped} steps in a row had no finite loss and gradient; the last "
    f"was step {step} (loss {values['loss']}, gradient norm "
    f"{values['grad_norm']}). No parameter was changed by them. The state "
    f"before that step and its batch are in {folder}: the training step "
    "repeats it from them. Look for extreme inputs, lower the learning rate or "
    "raise the temperatures"
  )


def _stopped_by(received: list[int], step: int) -> int | None:
  """The signal after which all processes are to stop at this step, if any."""
  if not _one_of_several():
    return received[0] if received else None
  # Of all, so that it is the same step everywhere: the first that none of them
  # has begun when the signal comes to one.
  if multihost_utils.reached_preemption_sync_point(step):
    return received[0] if received else signal.SIGTERM
  return None


def _one_of_several() -> bool:
  return jax.process_count() > 1


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
  """Collects SIGTERM and SIGINT instead of dying of them.

  A second signal of the same kind has its usual effect. Of several processes,
  SIGTERM is left to JAX, which tells the others of it, and of the maintenance
  of a host; SIGINT becomes one.
  """
  received: list[int] = []
  several = _one_of_several()

  def handle(number: int, frame: Any) -> None:
    del frame
    received.append(number)
    signal.signal(number, previous[number])
    if several:
      os.kill(os.getpid(), signal.SIGTERM)

  previous: dict[int, Any] = {}
  ours = (signal.SIGINT,) if several else (signal.SIGTERM, signal.SIGINT)
  try:
    for number in ours:
      previous[number] = signal.signal(number, handle)
  except ValueError:  # not the main thread: signals are somebody else's
    pass
  try:
    yield received
  finally:
    for restored, handler in previous.items():
      signal.signal(restored, handler)


class _Progress:
  """A progress bar on a terminal, a line per evaluation elsewhere."""

  def __init__(self, steps: int, start: int):
    self._bar = tqdm.tqdm(
      total=steps,
      initial=start,
      unit="step",
      dynamic_ncols=True,
      disable=not sys.stderr.isatty() or jax.process_index() > 0,
    )
    self._retrieval: dict[str, str] = {}
    self._row: Mapping[str, Any] = {}
    self.meter = Throughput(start)

  def __enter__(self) -> "_Progress":
    return self

  def __exit__(self, *unused: Any) -> None:
    self._bar.close()

  def paused(self) -> contextlib.AbstractContextManager[None]:
    """Leaves the time of an evaluation out of the rates."""
    return self.meter.paused()

  def show(self, step: int, row: Mapping[str, Any]) -> None:
    """Moves the bar and shows the terms of the loss."""
    self._row = row
    self._bar.set_postfix(
      _loss_terms(row) | self._retrieval | _speed(row), refresh=False
    )
    self._bar.update(step - self._bar.n)

  def report(self, step: int, results: Mapping[str, Any]) -> None:
    """Shows an evaluation."""
    self._retrieval = {
      name: f"{value:.3f}"
      for name, value in results.items()
      if name.startswith(("mean_", "coverage")) and isinstance(value, float)
    }
    if self._bar.disable:
      fields = _loss_terms(self._row) | self._retrieval
      fields["steps/s"] = f"{self._row.get('steps_per_second', 0):.1f}"
      fields |= _speed(self._row)
      text = "  ".join(f"{name} {value}" for name, value in fields.items())
      print(f"step {step:>6}/{self._bar.total}  {text}", flush=True)


def _loss_terms(row: Mapping[str, Any]) -> dict[str, str]:
  """The loss, its terms, and the skipped steps if there were any."""
  quiet = ("grad_norm", "learning_rate", "loss_scale", "skipped_in_a_row")
  names = sorted(
    set(row) - {*quiet, *THROUGHPUT}, key=lambda name: (name != "loss", name)
  )
  return {
    name: f"{float(row[name]):.3g}"
    for name in names
    if name != "skipped" or row[name]
  }


def _speed(row: Mapping[str, Any]) -> dict[str, str]:
  """How much of the machine is used, as far as it is known."""
  shares = {"mfu": "mfu", "data_wait_share": "data wait"}
  return {
    title: f"{row[name]:.1%}" for name, title in shares.items() if name in row
  }
