"""Times a training step of the published model, beside the same in PyTorch.

  python -m experiments.benchmarks.model

On the CPU a small one, forward, backward and optimizer, with PyTorch in turns
where it is installed. On an accelerator the full one in bfloat16, 64 instances
of 8 frames, with what it makes of the device. Besides, on shapes alone: how
long layers take to compile, what memory recomputing saves, and how many
operations a step has. Prints tables at the end; `runs/benchmarks/model.json` is
written anew after every measurement, so that an interrupted run leaves what it
has ("complete": false in it). See docs/benchmarks.md.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tqdm
from absl import flags

from experiments import cli, workdir
from experiments.benchmarks import (
  flops,
  machine,
  model_report,
  options,
  report,
  step_compilation,
  steps,
  tables,
  timing,
  twin,
)
from experiments.benchmarks.cases import Contestant
from experiments.benchmarks.goals import Goal
from experiments.benchmarks.steps import StepCase

_SIZE = flags.DEFINE_enum(
  "model_size",
  None,
  sorted(steps.SIZES),
  "The model to time. Default: small on a CPU, finetuned (the full one, with 8 "
  "frames) elsewhere.",
)
_DEPTHS = flags.DEFINE_list(
  "depths", None, "Blocks of the vision tower to compile. Default: 4,12,40."
)
_COMPILATION = flags.DEFINE_bool(
  "compilation", True, "Whether to compile, on shapes alone, for the figures."
)
_TIMING = flags.DEFINE_bool("timing", True, "Whether to time steps.")
_FULL = flags.DEFINE_bool(
  "full", True, "Whether to compile and count the full model, too."
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(options)

_ROUNDS, _DEFAULT_DEPTHS = 7, (4, 12, 40)
# By size; of the others.
_BATCHES, _BATCH = {steps.FULL: 16, steps.FINETUNED: 64}, 8
_MICRO_BATCH = 8
_MAX_SECONDS, _SECONDS_IN_ALL = 120.0, 120.0


class Found(NamedTuple):
  """What was measured so far."""

  timings: list[timing.Timing[StepCase]]  # of the steps
  towers: list[step_compilation.TowerCompilation]  # compiled, for the time
  memories: list[step_compilation.StepMemory]  # compiled, for the memory
  counted: list[model_report.Counted]  # the operations


def main() -> None:
  """Measures from the flags."""
  options.check_positive(options.ROUNDS)
  depths = options.numbers(_DEPTHS, _DEFAULT_DEPTHS, minimum=1)
  size = _SIZE.value or ("small" if _on_cpu() else steps.FINETUNED)
  batch = options.numbers(
    options.BATCH, (_BATCHES.get(size, _BATCH),), minimum=2
  )
  dtype = options.DTYPE.value
  if not _on_cpu() and not options.DTYPE.present:
    dtype = "bfloat16"
  cases = [StepCase(size, b, dtype, True) for b in batch]
  if _on_cpu():
    cases += [case._replace(dropout=False) for case in cases]
  output = Path(options.OUTPUT.value or "runs/benchmarks/model.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _place())
  load = os.getloadavg()[0]

  sizes = [cases[0]]
  if _FULL.value and size not in _BATCHES:
    sizes.append(StepCase(steps.FULL, _BATCHES[steps.FULL], dtype, True))
  found, here = Found([], [], [], []), machine.describe()
  parts: list[tuple[list, Iterator]] = [(found.counted, map(count, sizes))]
  if _COMPILATION.value:
    parts = [
      (found.towers, compile_towers(cases[0], depths)),
      (found.memories, compile_steps(sizes)),
      *parts,
    ]
  if _TIMING.value:
    rounds = options.ROUNDS.value or _ROUNDS
    parts = [(found.timings, time_steps(cases, rounds=rounds)), *parts]
  for kept, measurements in parts:
    for measured in measurements:
      kept.append(measured)
      save(found, here, load, output)
  save(found, here, load, output, is_complete=True)
  show(found, here, load, page)
  print(f"\nresults: {output}")


def time_steps(
  cases: Sequence[StepCase], *, rounds: int
) -> Iterator[timing.Timing[StepCase]]:
  """Times the steps of all contestants on all cases.

  Args:
    cases: The cases.
    rounds: How often each is called.
  """
  with tqdm.tqdm(cases, desc="steps", unit="case") as bar:
    for case in bar:
      bar.set_description(str(case))
      yield from timing.measure(
        contestants(),
        case,
        rounds=rounds,
        max_seconds=_MAX_SECONDS,
        seconds_in_all=_SECONDS_IN_ALL,
        after_itself=True,
        tell=bar.set_postfix_str,
      )
      jax.clear_caches()


def contestants() -> list[Contestant[StepCase]]:
  """PyTorch and ours on a CPU; elsewhere ours under every policy.

  Micro-batches are encoded twice, which takes no more time than what "full"
  computes again, and their size decides about the memory.
  """
  if _on_cpu():
    return twin.contestants() + steps.contestants()
  states: steps.States = {}
  # The frugal ones first: what fails for want of memory may take the state
  # with it.
  return [
    Contestant(
      f"remat none, micro-batches of {_MICRO_BATCH}",
      "remat full",
      steps.build(states, _MICRO_BATCH, remat="none"),
    ),
    *(
      Contestant(
        f"remat {remat}", "remat full", steps.build(states, remat=remat)
      )
      for remat in ("full", "dots", "none")
    ),
  ]


def compile_towers(
  case: StepCase, depths: Sequence[int]
) -> Iterator[step_compilation.TowerCompilation]:
  """Compiles vision towers of some depths, in loops and unrolled."""
  todo = step_compilation.plan_towers(depths)
  for depth, scan in tqdm.tqdm(todo, desc="compiling", unit="tower"):
    yield step_compilation.compile_tower(case, depth, scan_layers=scan)


def compile_steps(
  cases: Sequence[StepCase],
) -> Iterator[step_compilation.StepMemory]:
  """Compiles steps under all policies of recomputing."""
  todo = [(c, policy) for c in cases for policy in step_compilation.POLICIES]
  for case, policy in tqdm.tqdm(todo, desc="memory", unit="step"):
    yield step_compilation.compile_step(case, policy)


def count(case: StepCase) -> model_report.Counted:
  """Counts the parameters and operations of a step."""
  return model_report.Counted(
    case, flops.parameters(case), flops.by_hand(case), flops.by_xla(case)
  )


def assess(found: Found) -> list[Goal]:
  """Compares what was measured with the goals for the device at hand."""
  peak = flops.peak(jax.devices()[0])
  return model_report.assess(found.timings, found.counted, peak)


def save(
  found: Found,
  here: dict[str, Any],
  load: float,
  output: Path,
  *,
  is_complete: bool = False,
) -> None:
  """Writes all figures that there are so far.

  Args:
    found: The figures.
    here: The machine.
    load: Of the machine before, which has other things to do above 1 or so.
    output: The file.
    is_complete: Whether there will be no more.
  """
  results: dict[str, Any] = {
    "machine": here,
    "command": sys.argv,
    "complete": is_complete,
    "load": load,
    "timings": report.timings_as_json(found.timings),
    **model_report.as_json(found.towers, found.memories, found.counted),
    "goals": report.goals_as_json(assess(found)),
  }
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")


def show(
  found: Found, here: dict[str, Any], load: float, page: Path | None
) -> None:
  """Prints the tables, and writes them into a page, if there is one."""
  shown, assessed = [], assess(found)
  if found.timings:
    against = twin.EAGER if _on_cpu() else "remat full"
    shown.append(model_report.step_table(found.timings, against))
    shown += model_report.absent_tables(found.timings)
  if found.timings and not _on_cpu():
    device = jax.devices()[0]
    shown.append(
      model_report.utilisation_table(
        found.timings, found.counted, device.device_kind, flops.peak(device)
      )
    )
  shown.append(model_report.flops_table(found.counted))
  if found.towers:
    shown.append(model_report.compilation_table(found.towers))
  if found.memories:
    shown.append(model_report.memory_table(found.memories))
  if assessed:
    shown.append(report.goal_table(assessed))
  head = f"{machine.sentence(here)}; load average before: {load:.1f}"
  print("\n\n".join([head, *map(tables.as_text, shown)]))
  if page:
    tables.write_markdown(
      page, _place(), "\n\n".join([head, *map(tables.as_markdown, shown)])
    )


def _on_cpu() -> bool:
  return jax.default_backend() == "cpu"


def _place() -> str:
  """The name of the tables in a page."""
  return f"model on {jax.default_backend()}"


if __name__ == "__main__":
  cli.run(main)
