"""Which steps are traced, and that a trace is left behind."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from pmrl_jax import training


@pytest.mark.parametrize(
  ("text", "steps"),
  [("1:2", [1]), ("3:5", [3, 4]), ("10:11", [10]), ("1:11", range(1, 11))],
)
def test_steps_are_read_as_a_slice(text, steps):
  assert list(training.parse_steps(text, 10)) == list(steps)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("5", "must be START:STOP, as 100:103"),
    ("5:", "must be START:STOP"),
    ("a:b", "must be START:STOP"),
    ("-1:3", "must be START:STOP"),
    ("5:5", "must start before they stop, got '5:5'"),
    ("6:5", "must start before they stop"),
    ("0:3", "must be within 1:11"),
    ("9:12", "must be within 1:11"),
  ],
)
def test_steps_that_are_none_of_the_run_are_explained(text, message):
  with pytest.raises(ValueError, match=message):
    training.parse_steps(text, 10)


class _Profiler:
  """Stands in for jax.profiler and tells what was traced."""

  def __init__(self, monkeypatch):
    self.events = []
    monkeypatch.setattr(
      jax.profiler, "start_trace", lambda folder: self.events.append("start")
    )
    monkeypatch.setattr(
      jax.profiler, "stop_trace", lambda: self.events.append("stop")
    )

  def step(self, state, batch):
    self.events.append(int(state.step) + 1)
    return SimpleNamespace(step=state.step + 1), {}


def _train(profiler, steps, *, start=0, stop=5, folder="unused"):
  state = SimpleNamespace(step=jnp.int32(start))
  with training.profiled(profiler.step, steps, folder) as step:
    for _ in range(start, stop):
      state, _ = step(state, None)


def test_just_these_steps_are_traced(monkeypatch):
  profiler = _Profiler(monkeypatch)
  _train(profiler, range(2, 4))
  assert profiler.events == [1, "start", 2, 3, "stop", 4, 5]


def test_steps_are_counted_from_where_the_run_goes_on(monkeypatch):
  profiler = _Profiler(monkeypatch)
  _train(profiler, range(4, 5), start=2)
  assert profiler.events == [3, "start", 4, "stop", 5]


def test_a_run_that_ends_early_leaves_its_trace(monkeypatch):
  profiler = _Profiler(monkeypatch)
  _train(profiler, range(2, 4), stop=2)
  assert profiler.events == [1, "start", 2, "stop"]


def test_steps_that_have_been_taken_are_explained(monkeypatch):
  profiler = _Profiler(monkeypatch)
  with pytest.raises(ValueError, match="goes on after step 2; choose later"):
    _train(profiler, range(2, 4), start=2)
  with pytest.raises(ValueError, match="nothing was profiled"):
    _train(profiler, range(2, 4), start=5)
  assert profiler.events == []


def test_without_steps_the_step_is_as_it_was(monkeypatch):
  profiler = _Profiler(monkeypatch)
  with training.profiled(profiler.step, None, "unused") as step:
    assert step == profiler.step
