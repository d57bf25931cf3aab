"""Times contestants side by side, so that all see the same machine.

They take turns: A B C A B C ... A ratio is the median of the ratios within a
round, since what slows a machine down slows both.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple

import jax

from experiments.benchmarks.cases import C, Contestant, Skipped

_SECONDS_IN_ALL = 5.0
_FEWEST_CALLS = 3


class Timing(NamedTuple, Generic[C]):
  """How long a contestant took; `skipped` says why it did not take part."""

  case: C
  name: str
  floor: str
  seconds: dict[int, float]  # by round
  probe: float = math.nan  # seconds of a call before the rounds, or expected
  skipped: str | None = None

  def median(self) -> float:
    """Seconds of a call; NaN if skipped."""
    return (
      statistics.median(self.seconds.values()) if self.seconds else math.nan
    )

  def spread(self) -> float:
    """Half the distance of the quartiles over the median; NaN if skipped."""
    if len(self.seconds) < 2:
      return 0.0 if self.seconds else math.nan
    low, _, high = statistics.quantiles(
      self.seconds.values(), n=4, method="inclusive"
    )
    return (high - low) / 2 / self.median()


def ratio(timing: Timing, other: Timing | None) -> float:
  """How many times as long as the other one; NaN if that is not known."""
  if other is None:
    return math.nan
  rounds = timing.seconds.keys() & other.seconds.keys()
  if not rounds:
    return math.nan
  return statistics.median(timing.seconds[r] / other.seconds[r] for r in rounds)


def measure(
  contestants: Iterable[Contestant[C]],
  case: C,
  *,
  rounds: int,
  max_seconds: float,
  seconds_in_all: float = _SECONDS_IN_ALL,
  expected: Mapping[str, float] | None = None,
  clock: Callable[[], float] | None = None,
  after_itself: bool = False,
  tell: Callable[[str], Any] = lambda name: None,
) -> list[Timing[C]]:
  """Times all contestants on a case.

  Args:
    contestants: Who takes part.
    case: The size.
    rounds: How often each is called, if it is fast.
    max_seconds: Contestants with slower calls are skipped.
    seconds_in_all: A slow contestant sits out rounds, so that it takes about
      this time in all.
    expected: Seconds that a call takes at least, by name, where known; a
      contestant that would be skipped is then not even called once.
    clock: Returns seconds; by default `time.perf_counter`.
    after_itself: Whether a call that counts follows one of the same contestant
      that does not, as steps of a training follow each other. What the others
      did to memory and caches then does not count.
    tell: Is told who is being prepared, and then the rounds.

  Returns:
    A timing for each.
  """
  expected, clock = expected or {}, clock or time.perf_counter
  calls: dict[str, Callable[[], Any]] = {}
  timings = []
  for contestant in contestants:
    name = contestant.name
    tell(name)
    probe, skipped = expected.get(name, math.nan), None
    try:
      if not probe > max_seconds:
        calls[name], probe = _prepare(contestant, case, max_seconds, clock)
      if probe > max_seconds:
        raise Skipped(
          f"a call takes {probe:.1f} s or more, and --max_seconds is "
          f"{max_seconds:g}"
        )
    except Skipped as reason:
      skipped = str(reason)
    timings.append(Timing(case, name, contestant.floor, {}, probe, skipped))
  taking_part = [timing for timing in timings if timing.skipped is None]
  gc.collect()
  gc.disable()
  try:
    for number in range(rounds):
      tell(f"round {number + 1} of {rounds}")
      for timing in taking_part:
        if number % _stride(timing.probe, rounds, seconds_in_all) == 0:
          if after_itself:
            calls[timing.name]()
          timing.seconds[number] = _seconds(calls[timing.name], clock)
  finally:
    gc.enable()
  return timings


def _prepare(
  contestant: Contestant[C],
  case: C,
  max_seconds: float,
  clock: Callable[[], float],
) -> tuple[Callable[[], Any], float]:
  """Returns the call and how long it took."""
  try:
    call = contestant.build(case)
    seconds = _seconds(call, clock)
    if seconds <= max_seconds:
      seconds = _seconds(call, clock)  # the first one also warmed up
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    raise Skipped("does not fit in memory") from None
  return call, seconds


def _stride(seconds: float, rounds: int, seconds_in_all: float) -> int:
  """Returns n where a contestant takes part in every n-th round."""
  affordable = max(_FEWEST_CALLS, int(seconds_in_all / max(seconds, 1e-9)))
  return max(1, math.ceil(rounds / affordable))


def _seconds(call: Callable[[], Any], clock: Callable[[], float]) -> float:
  start = clock()
  call()
  return clock() - start
