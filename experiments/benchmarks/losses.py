"""Times the losses side by side, and asks the compiler for their memory.

  python -m experiments.benchmarks.losses

On the device at hand, forward and backward, compiled before it is timed. With
PyTorch installed, the published computation takes part. Prints tables and
writes `runs/benchmarks/losses.json`; see docs/benchmarks.md.
"""

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tqdm
from absl import flags

from experiments import cli, workdir
from experiments.benchmarks import (
  goals,
  machine,
  memory,
  options,
  report,
  tables,
  timing,
)
from experiments.benchmarks.cases import Case
from experiments.benchmarks.contestants import contestants
from experiments.benchmarks.objectives import CONTRASTS

_MAX_SECONDS = flags.DEFINE_float(
  "max_seconds", 5.0, "Losses with slower calls are skipped."
)
_QUICK = flags.DEFINE_bool(
  "quick", False, "Smaller sizes, where these are not given, and 5 rounds."
)
_MEMORY = flags.DEFINE_bool("memory", True, "Whether to measure memory, too.")
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(options)

_ROUNDS, _QUICK_ROUNDS = 20, 5
_BATCH, _QUICK_BATCH = (64, 256, 1024, 4096), (64, 256)
_MODALITIES, _QUICK_MODALITIES = (2, 3, 4, 8), (2, 3)
_LARGE_BATCH = (4096, 16_384, goals.LARGE_CASE.batch)


def main() -> None:
  """Measures from the flags."""
  quick = _QUICK.value
  batch = options.numbers(
    options.BATCH, _QUICK_BATCH if quick else _BATCH, minimum=2
  )
  modalities = options.numbers(
    options.MODALITIES, _QUICK_MODALITIES if quick else _MODALITIES, minimum=2
  )
  options.check_positive(
    options.DIM, options.BLOCK_SIZE, options.ROUNDS, _MAX_SECONDS
  )
  cases = [
    Case(b, n, options.DIM.value, options.DTYPE.value)
    for n, b in itertools.product(modalities, batch)
  ]
  if jax.default_backend() == "gpu" and not quick and not options.BATCH.value:
    cases.append(goals.GPU_CASE)
  output = Path(options.OUTPUT.value or "runs/benchmarks/losses.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _place())

  rounds = options.ROUNDS.value or _ROUNDS
  timings = time_all(
    cases,
    rounds=min(rounds, _QUICK_ROUNDS) if quick else rounds,
    max_seconds=_MAX_SECONDS.value,
  )
  memories = []
  if _MEMORY.value:
    sizes = options.numbers(
      options.BATCH, _QUICK_BATCH if quick else _LARGE_BATCH, minimum=2
    )
    large = goals.LARGE_CASE._replace(
      dim=options.DIM.value, dtype=options.DTYPE.value
    )
    memories = measure_memory([large._replace(batch=b) for b in sizes])
  write(timings, memories, output, page)


def time_all(
  cases: Sequence[Case], *, rounds: int, max_seconds: float
) -> list[timing.Timing]:
  """Times all contestants on all cases, small ones first.

  Args:
    cases: The sizes; of one number of modalities, ascending in batch.
    rounds: How often each is called, if it is fast.
    max_seconds: Contestants with slower calls are skipped.

  Returns:
    The timings.
  """
  timings: list[timing.Timing] = []
  before: list[timing.Timing] = []
  with tqdm.tqdm(cases, desc="timing", unit="size") as bar:
    for case in bar:
      bar.set_description(str(case))
      # Nothing grows slower than the batch.
      expected = {
        t.name: t.probe * case.batch / t.case.batch
        for t in before
        if t.case._replace(batch=0) == case._replace(batch=0)
      }
      before = timing.measure(
        contestants(case.num_modalities),
        case,
        rounds=rounds,
        max_seconds=max_seconds,
        expected=expected,
        tell=bar.set_postfix_str,
      )
      timings += before
      jax.clear_caches()
  return timings


def measure_memory(cases: Sequence[Case]) -> list[memory.Memory]:
  """Compiles the forms of the objective for all cases."""
  todo = memory.plan(cases, CONTRASTS, options.BLOCK_SIZE.value)
  return list(
    tqdm.tqdm(
      memory.measure_all(todo), desc="memory", unit="form", total=len(todo)
    )
  )


def write(
  timings: Sequence[timing.Timing],
  memories: Sequence[memory.Memory],
  output: Path,
  page: Path | None,
) -> None:
  """Prints the tables, and writes them and all figures.

  Args:
    timings: What was timed.
    memories: What was compiled.
    output: The file for the figures.
    page: The page for the tables, if there is one.
  """
  here = machine.describe()
  assessed = goals.assess(timings, memories, here["platform"])
  results: dict[str, Any] = {
    "machine": here,
    "command": sys.argv,
    **report.as_json(timings, memories, assessed),
  }
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")
  found = report.tables(timings, memories, assessed)
  print("\n\n".join([machine.sentence(here), *map(tables.as_text, found)]))
  print(f"\nresults: {output}")
  if page:
    tables.write_markdown(
      page,
      _place(),
      "\n\n".join([machine.sentence(here), *map(tables.as_markdown, found)]),
    )


def _place() -> str:
  """The name of the tables in a page."""
  return f"losses on {jax.default_backend()}"


if __name__ == "__main__":
  cli.run(main)
