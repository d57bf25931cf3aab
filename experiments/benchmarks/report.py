"""Measurements as tables and as JSON."""

import math
from collections.abc import Sequence
from typing import Any

from experiments.benchmarks.goals import Goal, show
from experiments.benchmarks.memory import Memory
from experiments.benchmarks.tables import Table
from experiments.benchmarks.timing import Timing, ratio

_NOTHING = "–"
_VERDICTS = {True: "yes", False: "NO", None: "not measured"}


def tables(
  timings: Sequence[Timing],
  memories: Sequence[Memory],
  goals: Sequence[Goal],
) -> list[Table]:
  """All tables of the program `losses`."""
  found = timing_tables(timings)
  found += memory_tables(memories)
  skipped = skipped_table(timings)
  if skipped.rows:
    found.append(skipped)
  return [*found, goal_table(goals)]


def timing_tables(timings: Sequence[Timing]) -> list[Table]:
  """A table for each number of modalities and type: losses by batch sizes."""
  times = {(timing.case, timing.name): timing for timing in timings}
  found = []
  for group in _unique(timing.case._replace(batch=0) for timing in timings):
    cases = _unique(
      timing.case
      for timing in timings
      if timing.case._replace(batch=0) == group
    )
    names = _unique(timing.name for timing in timings if timing.case in cases)
    found.append(
      Table(
        f"Forward and backward, N = {group.num_modalities}, d = {group.dim}, "
        f"{group.dtype}: milliseconds ± spread, times its floor",
        ["", *(f"B = {case.batch:,}" for case in cases)],
        [
          [name, *(_time_cell(times, case, name) for case in cases)]
          for name in names
        ],
      )
    )
  return found


def _time_cell(times: dict, case: Any, name: str) -> str:
  timing = times.get((case, name))
  if timing is None or timing.skipped:
    return _NOTHING
  text = f"{1e3 * timing.median():.3g} ± {100 * timing.spread():.0f} %"
  times_as_long = ratio(timing, times.get((case, timing.floor)))
  if timing.name == timing.floor or math.isnan(times_as_long):
    return text
  return f"{text}, {times_as_long:.3g} x"


def memory_tables(memories: Sequence[Memory]) -> list[Table]:
  """A table for each number of devices: forms by batch sizes."""
  found = []
  for num_devices in _unique(memory.num_devices for memory in memories):
    chosen = [m for m in memories if m.num_devices == num_devices]
    cases = _unique(memory.case for memory in chosen)
    cells = {(m.case, m.form): size(m.temporary_bytes) for m in chosen}
    group = cases[0]
    found.append(
      Table(
        f"Temporary memory per device, {num_devices} "
        f"{'device' if num_devices == 1 else 'CPU devices (faked)'}, "
        f"N = {group.num_modalities}, d = {group.dim}, {group.dtype}",
        ["", *(f"B = {case.batch:,}" for case in cases)],
        [
          [str(form), *(cells[case, form] for case in cases)]
          for form in _unique(memory.form for memory in chosen)
        ],
      )
    )
  return found


def skipped_table(timings: Sequence[Timing]) -> Table:
  """Who did not take part, and why, equal reasons together."""
  cases: dict[tuple[str, str], list[str]] = {}
  for timing in timings:
    if timing.skipped:
      where = f"{timing.case.batch:,}/{timing.case.num_modalities}"
      cases.setdefault((timing.name, timing.skipped), []).append(where)
  number = sum(timing.skipped is not None for timing in timings)
  return Table(
    f"Skipped: {number} of {len(timings)} timings",
    ["loss", "at B/N", "reason"],
    [
      [name, " ".join(where), reason] for (name, reason), where in cases.items()
    ],
  )


def goal_table(goals: Sequence[Goal]) -> Table:
  """Goals against what was measured."""
  return Table(
    "Goals",
    ["goal", "bound", "measured", "met"],
    [
      [
        goal.text,
        goal.bound,
        show(goal.measured, goal.unit),
        _VERDICTS[goal.met],
      ]
      for goal in goals
    ],
  )


def as_json(
  timings: Sequence[Timing],
  memories: Sequence[Memory],
  goals: Sequence[Goal],
) -> dict[str, Any]:
  """Everything that was measured of the losses, as JSON can hold it."""
  return {
    "timings": timings_as_json(timings),
    "memory": [
      {
        **memory.case._asdict(),
        **memory.form._asdict(),
        "num_devices": memory.num_devices,
        "temporary_bytes": memory.temporary_bytes,
        "failure": memory.failure,
      }
      for memory in memories
    ],
    "goals": goals_as_json(goals),
  }


def timings_as_json(timings: Sequence[Timing]) -> list[dict[str, Any]]:
  """All timings, single calls included."""
  times = {(timing.case, timing.name): timing for timing in timings}
  return [
    {
      **timing.case._asdict(),
      "name": timing.name,
      "floor": timing.floor,
      "skipped": timing.skipped,
      "median_seconds": number(timing.median()),
      "spread": number(timing.spread()),
      "times_floor": number(
        ratio(timing, times.get((timing.case, timing.floor)))
      ),
      "seconds": list(timing.seconds.values()),
      "rounds": list(timing.seconds),
    }
    for timing in timings
  ]


def goals_as_json(goals: Sequence[Goal]) -> list[dict[str, Any]]:
  """All goals, and what was measured."""
  return [
    {**goal._asdict(), "measured": number(goal.measured)} for goal in goals
  ]


def size(num_bytes: int | None) -> str:
  """Bytes in words."""
  if num_bytes is None:
    return _NOTHING
  return (
    f"{num_bytes / 1e9:.3g} GB"
    if num_bytes >= 1e9
    else f"{num_bytes / 1e6:.3g} MB"
  )


def number(value: float) -> float | None:
  """JSON has no NaN."""
  return None if math.isnan(value) else value


def _unique(items: Any) -> list[Any]:
  """Each item once, in order."""
  return list(dict.fromkeys(items))
