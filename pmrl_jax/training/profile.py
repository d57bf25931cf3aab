"""Traces of a few training steps, for a profiler to show."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


def parse_steps(text: str, num_steps: int) -> range:
  """Reads which steps to trace.

  Args:
    text: As "100:103", for the steps 100, 101 and 102; the first is 1.
    num_steps: Steps of the run.

  Returns:
    The steps.

  Raises:
    ValueError: If it is something else, or they are none of the run.
  """
  start, colon, stop = text.partition(":")
  if not (colon and start.strip().isdecimal() and stop.strip().isdecimal()):
    raise ValueError(
      "the steps to profile must be START:STOP, as 100:103 for 100, 101 and "
      f"102; got {text!r}"
    )
  steps = range(int(start), int(stop))
  if not steps:
    raise ValueError(
      f"the steps to profile must start before they stop, got {text!r}; STOP "
      "is the first step that is not profiled any more"
    )
  if steps[0] < 1 or steps[-1] > num_steps:
    raise ValueError(
      f"the steps to profile must be within 1:{num_steps + 1}, which are all "
      f"of the run, got {text!r}"
    )
  return steps


@contextlib.contextmanager
def profiled(
  train_step: Callable, steps: range | None, folder: str | os.PathLike
) -> Iterator[Callable]:
  """Makes a step that traces some of its calls with `jax.profiler`.

  Args:
    train_step: From `make_train_step`.
    steps: Which steps; None to trace nothing.
    folder: Where the trace goes, for TensorBoard or xprof to read. Each
      process writes files of its own there.

  Yields:
    The step. It waits for the last traced one, so that the trace has it whole.

  Raises:
    ValueError: If the first of these steps has been taken already.
  """
  if not steps:
    yield train_step
    return
  traced = _Traced(train_step, steps, Path(folder))
  try:
    yield traced
  finally:
    traced.stop()
  if not traced.started:
    raise ValueError(
      "nothing was profiled, since the run has taken all its steps before; "
      "choose another workdir"
    )


class _Traced:
  """A step that traces some of its calls."""

  def __init__(self, train_step: Callable, steps: range, folder: Path):
    self._train_step, self._steps, self._folder = train_step, steps, folder
    self._step: int | None = None  # the last one that was taken
    self._tracing = self.started = False

  def __call__(self, state: Any, batch: Any) -> Any:
    if self._step is None:  # looked at once, since it waits for the device
      self._step = int(state.step)
      if self._step >= self._steps[0]:
        raise ValueError(
          f"the steps to profile start at {self._steps[0]}, and the run goes "
          f"on after step {self._step}; choose later ones"
        )
    self._step += 1
    if self._step == self._steps[0]:
      jax.block_until_ready(state)  # what came before is not to be seen
      jax.profiler.start_trace(self._folder)
      self._tracing = self.started = True
    if not self._tracing:
      return self._train_step(state, batch)
    with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
      results = self._train_step(state, batch)
    if self._step == self._steps[-1]:
      jax.block_until_ready(results)
      self.stop()
    return results

  def trace(self, state: Any, batch: Any) -> Any:
    """As `jax.jit` has it."""
    return self._train_step.trace(state, batch)  # type: ignore[attr-defined]

  def stop(self) -> None:
    """Ends the trace, if there is one."""
    if self._tracing:
      self._tracing = False
      jax.profiler.stop_trace()
