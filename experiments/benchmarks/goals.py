"""What the losses should cost at most, against what they cost."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from experiments.benchmarks.cases import Case
from experiments.benchmarks.memory import Memory
from experiments.benchmarks.objectives import CONTRASTS
from experiments.benchmarks.timing import Timing, ratio

# Where the goals are set: a size of training on a CPU, one on a GPU, and a
# batch whose logits do not fit.
CPU_CASE = Case(1024, 3, 512, "float32")
GPU_CASE = Case(16_384, 4, 512, "bfloat16")
LARGE_CASE = Case(65_536, 3, 512, "float32")

_FLOOR_CPU, _FLOOR_GPU = 1.4, 2.0
_PLAIN_SVD, _PUBLISHED = 1.8, 50.0
_BLOCKED_SHARE = 0.02


class Goal(NamedTuple):
  """A goal; `measured` is NaN where nothing was measured."""

  text: str
  bound: str
  measured: float
  unit: str
  met: bool | None  # None: not measured


def assess(
  timings: Sequence[Timing], memories: Sequence[Memory], platform: str
) -> list[Goal]:
  """Compares what was measured with the goals.

  Args:
    timings: Of all cases.
    memories: Of all forms.
    platform: What the timings were taken on, `cpu`, `gpu` or `tpu`.

  Returns:
    The goals, in the order of the design.
  """
  times = {(timing.case, timing.name): timing for timing in timings}

  def times_as_long(case: Case, slow: str, fast: str, where: str) -> float:
    if platform != where or (case, slow) not in times:
      return math.nan
    return ratio(times[case, slow], times.get((case, fast)))

  goals = [
    at_most(
      f"pmrl {contrast} gram / its floor, CPU, {CPU_CASE}",
      _FLOOR_CPU,
      times_as_long(
        CPU_CASE, f"pmrl {contrast} gram", f"floor {contrast}", "cpu"
      ),
    )
    for contrast in CONTRASTS
  ]
  for slow, bound in (
    ("plain svd autodiff", _PLAIN_SVD),
    ("torch svd, full matrices", _PUBLISHED),
  ):
    measured = times_as_long(CPU_CASE, slow, "pmrl directions gram", "cpu")
    text = f"{slow} / pmrl directions gram, CPU, {CPU_CASE}"
    goals.append(at_least(text, bound, measured))
  goals += [
    at_most(
      f"memory of {contrast}, blocked / dense, {LARGE_CASE}",
      _BLOCKED_SHARE,
      _blocked_share(memories, contrast),
      "%",
    )
    for contrast in CONTRASTS
  ]
  goals += [
    at_most(
      f"pmrl {contrast} gram / its floor, GPU, {GPU_CASE}",
      _FLOOR_GPU,
      times_as_long(
        GPU_CASE, f"pmrl {contrast} gram", f"floor {contrast}", "gpu"
      ),
    )
    for contrast in CONTRASTS
  ]
  return goals


def at_most(text: str, bound: float, measured: float, unit: str = "x") -> Goal:
  """A goal that is met by no more than the bound."""
  met = None if math.isnan(measured) else measured <= bound
  return Goal(text, f"<= {show(bound, unit)}", measured, unit, met)


def at_least(text: str, bound: float, measured: float, unit: str = "x") -> Goal:
  """A goal that is met by no less than the bound."""
  met = None if math.isnan(measured) else measured >= bound
  return Goal(text, f">= {show(bound, unit)}", measured, unit, met)


def show(value: float, unit: str) -> str:
  """A ratio in words, as `1.4 x` or `2 %`."""
  if math.isnan(value):
    return "–"
  return f"{100 * value:.3g} %" if unit == "%" else f"{value:.3g} x"


def _blocked_share(memories: Sequence[Memory], contrast: str) -> float:
  """Temporary memory of the blocked form over that of the dense one."""
  found = {
    memory.form.block_size is None: memory.temporary_bytes
    for memory in memories
    if memory.case == LARGE_CASE
    and memory.num_devices == 1
    and memory.form.contrast == contrast
  }
  dense, blocked = found.get(True), found.get(False)
  return blocked / dense if blocked and dense else math.nan
