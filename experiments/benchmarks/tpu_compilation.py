"""Compiles the objective for TPUs that need not be there.

  python -m experiments.benchmarks.tpu_compilation

Lists for every form of the loss how long it takes to compile, its memory on
each chip, and what the chips send each other. Needs the compiler for TPUs, but
no TPU: `pip install 'pmrl_jax[train,tpu]'`, in an environment of its own.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tqdm
from absl import flags

from experiments import cli, workdir
from experiments.benchmarks import (
  collectives,
  compilation,
  machine,
  options,
  report,
  tables,
)
from experiments.benchmarks.cases import Case
from experiments.benchmarks.objectives import CONTRASTS
from experiments.plan import targets

_TOPOLOGIES = flags.DEFINE_list(
  "topologies", ["v5e:4x4", "v5p:2x2x2"], "What to compile for."
)
_CONTRASTS = flags.DEFINE_multi_enum(
  "contrast", ["directions", "pairs"], list(CONTRASTS), "Which instance terms."
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(options)

_BATCH, _MODALITIES = (32_768,), (3,)
_PLACE = "TPU compilation"  # of the tables in a page


class Compilation(NamedTuple):
  """One form compiled for one topology."""

  topology: str
  num_chips: int
  case: Case
  form: compilation.Form
  seconds: float
  temporary_bytes: int | None  # on each chip
  collectives: Counter[collectives.Collective]
  failure: str | None = None  # why there are no figures


def main() -> None:
  """Compiles from the flags."""
  cases = [
    Case(batch, num_modalities, options.DIM.value, options.DTYPE.value)
    for num_modalities in options.numbers(
      options.MODALITIES, _MODALITIES, minimum=2
    )
    for batch in options.numbers(options.BATCH, _BATCH, minimum=2)
  ]
  options.check_positive(options.DIM, options.BLOCK_SIZE)
  chips = {name: targets.tpu_devices(name) for name in _TOPOLOGIES.value}
  for name, devices in chips.items():
    for case in cases:
      if case.batch % len(devices):
        raise ValueError(
          f"--batch must be multiples of the {len(devices)} chips of {name}, "
          f"got {case.batch}"
        )
  output = Path(options.OUTPUT.value or "runs/benchmarks/tpu_compilation.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _PLACE)
  todo = [
    (name, case, form)
    for name in chips
    for case in cases
    for form in compilation.forms(_CONTRASTS.value, options.BLOCK_SIZE.value)
  ]
  done = []
  with tqdm.tqdm(todo, unit="form") as bar:
    for name, case, form in bar:
      bar.set_description(f"{name}, {form}")
      done.append(compile_for(name, chips[name], case, form))
  write(done, output, page)


def compile_for(
  topology: str,
  devices: Sequence[jax.Device],
  case: Case,
  form: compilation.Form,
) -> Compilation:
  """Compiles one form for some devices."""
  start = time.perf_counter()
  try:
    compiled = compilation.compile_objective(case, form, devices)
  except jax.errors.JaxRuntimeError as error:
    return Compilation(
      topology,
      len(devices),
      case,
      form,
      time.perf_counter() - start,
      None,
      Counter(),
      str(error).splitlines()[0],
    )
  return Compilation(
    topology,
    len(devices),
    case,
    form,
    time.perf_counter() - start,
    compilation.temporary_bytes(compiled),
    collectives.count(compiled.as_text() or ""),
  )


def write(done: Sequence[Compilation], output: Path, page: Path | None) -> None:
  """Prints the tables, and writes them and all figures.

  Args:
    done: What was compiled.
    output: The file for the figures.
    page: The page for the tables, if there is one.
  """
  here = machine.describe()
  results = {
    "machine": here,
    "command": sys.argv,
    "compilations": [as_json(compiled) for compiled in done],
  }
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")
  found = [table(done, *group) for group in _groups(done)]
  print("\n\n".join([machine.sentence(here), *map(tables.as_text, found)]))
  print(f"\nresults: {output}")
  if page:
    tables.write_markdown(
      page,
      _PLACE,
      "\n\n".join([machine.sentence(here), *map(tables.as_markdown, found)]),
    )


def table(
  done: Sequence[Compilation], topology: str, case: Case
) -> tables.Table:
  """What was compiled for one topology and size."""
  chosen = [c for c in done if (c.topology, c.case) == (topology, case)]
  return tables.Table(
    f"{topology} ({chosen[0].num_chips} chips), {case}",
    ["form", "seconds", "memory per chip", "collectives"],
    [
      [
        str(compiled.form),
        f"{compiled.seconds:.0f}",
        report.size(compiled.temporary_bytes),
        compiled.failure or _in_words(compiled.collectives),
      ]
      for compiled in chosen
    ],
    of_numbers=False,
  )


def as_json(compiled: Compilation) -> dict[str, Any]:
  """One compilation, as JSON can hold it."""
  return {
    **compiled._asdict(),
    "case": compiled.case._asdict(),
    "form": compiled.form._asdict(),
    "collectives": [
      {**collective._asdict(), "count": count}
      for collective, count in compiled.collectives.items()
    ],
  }


def _in_words(found: Counter[collectives.Collective]) -> str:
  return "; ".join(
    f"{count} {kind} {arrays}{' in a loop' if in_loop else ''}"
    for (kind, arrays, in_loop), count in sorted(found.items())
  )


def _groups(done: Sequence[Compilation]) -> list[tuple[str, Case]]:
  return list(dict.fromkeys((c.topology, c.case) for c in done))


if __name__ == "__main__":
  cli.run(main)
