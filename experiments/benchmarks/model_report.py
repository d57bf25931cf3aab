"""What a training step costs, as tables and as JSON, against its goals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks.flops import Peak
from experiments.benchmarks.goals import Goal, at_least, at_most
from experiments.benchmarks.report import size as in_bytes
from experiments.benchmarks.step_compilation import (
  StepMemory,
  TowerCompilation,
)
from experiments.benchmarks.steps import FINETUNED, OURS, StepCase
from experiments.benchmarks.tables import Table
from experiments.benchmarks.timing import Timing, ratio
from experiments.benchmarks.twin import COMPILED, EAGER

_NOTHING = "–"
_SLOWEST, _UTILISATION = 1.0, 0.45


class Counted(NamedTuple):
  """The operations of a step."""

  case: StepCase
  parameters: int
  by_hand: Mapping[str, float]  # by part of the model
  by_xla: float

  def total(self) -> float:
    """All that were counted by hand."""
    return sum(self.by_hand.values())


def assess(
  timings: Sequence[Timing[StepCase]],
  counted: Sequence[Counted] = (),
  peak: Peak | None = None,
) -> list[Goal]:
  """Compares what was measured with the goals.

  Args:
    timings: Of the steps.
    counted: Their operations.
    peak: Of the device, if it is known; of the best of our steps it should be
      used as far as `_UTILISATION`.
  """
  times, totals = _by_name(timings), _totals(counted)
  goals = []
  for case in _cases(timings):
    for theirs in (EAGER, COMPILED):
      if {(case, theirs), (case, OURS)} <= times.keys():
        measured = ratio(times[case, OURS], times[case, theirs])
        goals.append(
          at_most(f"{OURS} / {theirs}, step, {case}", _SLOWEST, measured)
        )
    done = [t for t in timings if t.case == case and not t.skipped]
    if peak and done and case.size == FINETUNED and case in totals:
      fastest = min(timing.median() for timing in done)
      used = totals[case] / fastest / peak.flops
      text = f"MFU of the fastest, {case}"
      goals.append(at_least(text, _UTILISATION, used, "%"))
  return goals


def step_table(timings: Sequence[Timing[StepCase]], against: str) -> Table:
  """Milliseconds of all contestants by case.

  Args:
    timings: Of the steps.
    against: Whose time the others' are set in proportion to.
  """
  times, cases = _by_name(timings), _cases(timings)
  return Table(
    f"A training step: milliseconds ± spread, times that of {against}, samples "
    "per second",
    ["", *map(str, cases)],
    [
      [who, *(_time_cell(times, case, who, against) for case in cases)]
      for who in dict.fromkeys(timing.name for timing in timings)
    ],
  )


def absent_tables(timings: Sequence[Timing[StepCase]]) -> list[Table]:
  """Who did not take part, and why, if anybody."""
  rows = [
    [timing.name, str(timing.case), timing.skipped]
    for timing in timings
    if timing.skipped
  ]
  title = "Did not take part"
  header = ["", "in", "reason"]
  return [Table(title, header, rows, of_numbers=False)] if rows else []


def utilisation_table(
  timings: Sequence[Timing[StepCase]],
  counted: Sequence[Counted],
  device: str,
  peak: Peak | None,
) -> Table:
  """What the device does of what it could do."""
  totals = _totals(counted)
  known = (
    f"its peak is {peak.flops / 1e12:.0f} TFLOP/s, {peak.source}"
    if peak
    else "its peak is not known, so there is no MFU"
  )
  rows = []
  for timing in timings:
    if timing.skipped or timing.case not in totals:
      continue
    per_second = totals[timing.case] / timing.median()
    rows.append(
      [
        timing.name,
        str(timing.case),
        f"{timing.case.batch / timing.median():.3g}",
        f"{per_second / 1e12:.3g}",
        f"{100 * per_second / peak.flops:.3g} %" if peak else _NOTHING,
      ]
    )
  return Table(
    f"Use of the device, {device}; {known}",
    ["", "of", "samples/s", "TFLOP/s", "MFU"],
    rows,
  )


def flops_table(counted: Sequence[Counted]) -> Table:
  """Operations of a step by hand, beside XLA's."""
  parts = list(counted[0].by_hand) if counted else []
  return Table(
    "Operations of a step, 10⁹, counted by hand; and all of XLA's",
    ["", "parameters", *parts, "sum", "XLA", "XLA / sum"],
    [
      [
        str(count.case),
        f"{count.parameters / 1e6:,.1f} M",
        *(f"{count.by_hand[part] / 1e9:,.1f}" for part in parts),
        f"{count.total() / 1e9:,.1f}",
        f"{count.by_xla / 1e9:,.1f}",
        f"{count.by_xla / count.total():.3f}",
      ]
      for count in counted
    ],
  )


def compilation_table(towers: Sequence[TowerCompilation]) -> Table:
  """Seconds by depth, in a loop and unrolled."""
  by_form = {(t.depth, t.scan_layers): t for t in towers}
  depths = list(dict.fromkeys(tower.depth for tower in towers))

  def cell(depth: int, scan_layers: bool) -> str:
    found = by_form.get((depth, scan_layers))
    if found is None:
      return _NOTHING
    return f"{found.tracing:.1f} + {found.compiling:.1f}"

  return Table(
    "The vision tower, forward and backward: seconds of tracing + compiling; "
    f"{towers[0].case}",
    ["", *(f"{depth} blocks" for depth in depths)],
    [
      [name, *(cell(depth, scan) for depth in depths)]
      for name, scan in (("a loop", True), ("unrolled", False))
    ],
  )


def memory_table(memories: Sequence[StepMemory]) -> Table:
  """Temporary memory by what the backward pass computes again."""
  by_policy = {(m.case, m.remat): m for m in memories}
  cases = list(dict.fromkeys(memory.case for memory in memories))
  policies = list(dict.fromkeys(memory.remat for memory in memories))

  def cell(case: StepCase, policy: str) -> str:
    found = by_policy.get((case, policy))
    return _NOTHING if found is None else in_bytes(found.temporary_bytes)

  held = [
    in_bytes(next(m.argument_bytes for m in memories if m.case == case))
    for case in cases
  ]
  return Table(
    "Memory of a step on one device; temporary, by policy of recomputing, and "
    "beside it",
    ["", *map(str, cases)],
    [
      *([f"remat {p}", *(cell(c, p) for c in cases)] for p in policies),
      ["state and batch", *held],
    ],
  )


def as_json(
  towers: Sequence[TowerCompilation],
  memories: Sequence[StepMemory],
  counted: Sequence[Counted],
) -> dict[str, Any]:
  """What was compiled and counted, as JSON can hold it."""

  def rows(items: Sequence[Any]) -> list[dict[str, Any]]:
    return [{**item.case._asdict(), **_rest(item)} for item in items]

  return {
    "compilation": rows(towers),
    "memory": rows(memories),
    "operations": rows(counted),
  }


def _rest(item: Any) -> dict[str, Any]:
  return {k: v for k, v in item._asdict().items() if k != "case"}


def _time_cell(
  times: Mapping[tuple[StepCase, str], Timing[StepCase]],
  case: StepCase,
  name: str,
  against: str,
) -> str:
  timing = times.get((case, name))
  if timing is None or timing.skipped:
    return _NOTHING
  text = f"{1e3 * timing.median():.4g} ± {100 * timing.spread():.0f} %"
  times_as_long = ratio(timing, times.get((case, against)))
  if name != against and not math.isnan(times_as_long):
    text += f", {times_as_long:.3g} x"
  return f"{text}, {case.batch / timing.median():.3g}/s"


def _totals(counted: Sequence[Counted]) -> dict[StepCase, float]:
  return {count.case: count.total() for count in counted}


def _by_name(
  timings: Sequence[Timing[StepCase]],
) -> dict[tuple[StepCase, str], Timing[StepCase]]:
  return {(timing.case, timing.name): timing for timing in timings}


def _cases(timings: Sequence[Timing[StepCase]]) -> list[StepCase]:
  return list(dict.fromkeys(timing.case for timing in timings))
