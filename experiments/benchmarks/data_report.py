"""What loading data costs, as tables and as JSON, against its goals."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.benchmarks.goals import Goal, at_least, show
from experiments.benchmarks.overlap import Overlap, Setting
from experiments.benchmarks.readers import OURS, PUBLISHED, Clip
from experiments.benchmarks.tables import Table
from experiments.benchmarks.timing import Timing, ratio

_TIMES_PUBLISHED = 1.5
_BUSY = 0.9


def assess(
  timings: Sequence[Timing[Clip]], overlaps: Sequence[Overlap]
) -> list[Goal]:
  """Compares what was measured with the goals, for every case by itself."""
  times = {(timing.case, timing.name): timing for timing in timings}
  goals = [
    at_least(
      f"{OURS} / {PUBLISHED}, clips per second, {case}",
      _TIMES_PUBLISHED,
      _times_as_fast(times, case, OURS),
    )
    for case in dict.fromkeys(timing.case for timing in timings)
  ]
  goals += [
    at_least(
      f"share of the time that the device is busy, {o.pipeline}",
      _BUSY,
      # What takes longer than the step cannot be hidden behind it.
      o.busy() if o.suffices() and o.is_sound() else math.nan,
      "%",
    )
    for o in overlaps
    if o.device == "timer"
  ]
  return goals


def reader_tables(timings: Sequence[Timing[Clip]]) -> list[Table]:
  """A table for each clip, and one of who did not take part."""
  times = {(timing.case, timing.name): timing for timing in timings}
  found = []
  for clip in dict.fromkeys(timing.case.clip for timing in timings):
    cases = list(dict.fromkeys(t.case for t in timings if t.case.clip == clip))
    names = dict.fromkeys(t.name for t in timings if t.case.clip == clip)
    found.append(
      Table(
        f"Decoding, {clip}: clips per second and core ± spread, times as fast "
        "as the published reader",
        ["", *(f"{case.num_frames} frames" for case in cases)],
        [
          [name, *(_cell(times, case, name) for case in cases)]
          for name in names
        ],
      )
    )
  absent: dict[tuple[str, str], list[str]] = {}
  for timing in timings:
    if timing.skipped:
      where = absent.setdefault((timing.name, timing.skipped), [])
      where.append(str(timing.case))
  if absent:
    everywhere = len({timing.case for timing in timings})
    found.append(
      Table(
        "Readers that did not take part",
        ["reader", "in", "reason"],
        [
          [
            name,
            "all" if len(where) == everywhere else "; ".join(where),
            reason,
          ]
          for (name, reason), where in absent.items()
        ],
        of_numbers=False,
      )
    )
  return found


def loop_tables(overlaps: Sequence[Overlap], setting: Setting) -> list[Table]:
  """The table of the loops, if there are any."""
  if not overlaps:
    return []
  title = (
    f"Loops as in training: batches of {setting.batch_size} rows, each a video "
    f"({setting.num_frames} frames) and a sound; {setting.num_workers} threads "
    f"or processes, {setting.prefetch} batches ahead; milliseconds"
  )
  header = ["", "loading", "pace", "step", "turn", "loading hidden", "busy"]
  return [
    Table(
      title,
      header,
      [
        [
          f"{o.pipeline}, device: {o.device}",
          *(f"{1e3 * s:.3g}" for s in (o.loading, o.pace, o.step, o.turn)),
          # A step longer than its turn: something else slowed it when alone.
          show(o.hidden() if o.is_sound() else math.nan, "%"),
          show(o.busy() if o.is_sound() else math.nan, "%"),
        ]
        for o in overlaps
      ],
    )
  ]


def loops_as_json(overlaps: Sequence[Overlap]) -> list[dict[str, Any]]:
  """All loops, as JSON can hold them."""
  return [
    {
      **o._asdict(),
      "hidden": o.hidden(),
      "busy": o.busy(),
      "suffices": o.suffices(),
      "is_sound": o.is_sound(),
    }
    for o in overlaps
  ]


def in_words(versions: Mapping[str, str | None]) -> str:
  """The readers and their versions in a line of text."""
  return "readers: " + "; ".join(
    f"{name}: {version or 'not installed'}"
    for name, version in versions.items()
  )


def _cell(
  times: Mapping[tuple[Clip, str], Timing[Clip]], case: Clip, name: str
) -> str:
  timing = times[case, name]
  if timing.skipped:
    return "–"
  text = f"{1 / timing.median():.3g} ± {100 * timing.spread():.0f} %"
  times_as_fast = _times_as_fast(times, case, name)
  if name == PUBLISHED or math.isnan(times_as_fast):
    return text
  return f"{text}, {times_as_fast:.3g} x"


def _times_as_fast(
  times: Mapping[tuple[Clip, str], Timing[Clip]], case: Clip, name: str
) -> float:
  """How many times as fast as the published reader; NaN if not known."""
  published = times.get((case, PUBLISHED))
  return math.nan if published is None else ratio(published, times[case, name])
