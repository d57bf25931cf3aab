r"""How the contrastive part grows with the devices, at a batch for each.

  python -m experiments.plan.weak_scaling

Compiles value and gradient of the loss of given embeddings for 8 to 4,096
chips that need not be there, and lists the temporaries of each and what it
sends. Needs the compiler for TPUs: see experiments/plan/__main__.py.
"""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tqdm
from absl import flags

from experiments import cli, workdir
from experiments.benchmarks import collectives, compilation, options, tables
from experiments.benchmarks.cases import Case
from experiments.benchmarks.objectives import CONTRASTS
from experiments.benchmarks.report import size
from experiments.plan import targets

_TARGETS = flags.DEFINE_list(
  "targets",
  ["v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8", "v5p:16x16x16"],
  f"What to compile for: {targets.KNOWN}.",
)
_PER_DEVICE = flags.DEFINE_integer(
  "instances", 16, "Instances on each device.", lower_bound=1
)
_NUM_MODALITIES = flags.DEFINE_integer(
  "num_modalities", 4, "Embeddings of an instance.", lower_bound=2
)
_TERMS = flags.DEFINE_enum(
  "terms", "directions", list(CONTRASTS), "Which instance term."
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(options)

_PLACE = "weak scaling"  # of the tables in a page


class Scaled(NamedTuple):
  """A form compiled for a number of devices."""

  topology: str
  num_devices: int
  case: Case
  form: compilation.Form | None  # None: a direction is gathered, no more
  temporary_bytes: int | None  # on each device
  traffic: Mapping[str, collectives.Traffic]
  seconds: float
  failure: str | None = None

  def sent_bytes(self) -> float:
    """What a device sends, by all kinds together."""
    return sum(each.sent_bytes for each in self.traffic.values())


def main() -> None:
  """Compiles from the flags, and writes after each form."""
  options.check_positive(options.DIM, options.BLOCK_SIZE)
  output = Path(options.OUTPUT.value or "runs/benchmarks/weak_scaling.json")
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _PLACE)
  found = [targets.find(name) for name in _TARGETS.value]
  todo = [
    (target, form)
    for target in found
    for form in [None, *forms(_TERMS.value, options.BLOCK_SIZE.value)]
  ]
  done: list[Scaled] = []
  output.parent.mkdir(parents=True, exist_ok=True)
  with tqdm.tqdm(todo, unit=" forms") as bar:
    for target, form in bar:
      bar.set_description(f"{target.name}, {_name(form)}")
      case = Case(
        _PER_DEVICE.value * len(target.devices),
        _NUM_MODALITIES.value,
        options.DIM.value,
        options.DTYPE.value,
      )
      done.append(compile_for(target, case, form))
      _write(done, output, page)
  for each in _tables(done):
    print(f"{tables.as_text(each)}\n")
  print(f"results: {output}")


def forms(contrast: str, block_size: int) -> list[compilation.Form]:
  """The forms that matter here: as compilers have it, blocked, and a ring."""
  return [
    compilation.Form(contrast, "jit", None),
    compilation.Form(contrast, "jit", block_size),
    compilation.Form(contrast, "gather", None),
    compilation.Form(contrast, "gather", block_size),
    compilation.Form(contrast, "ring", block_size),
  ]


def compile_for(
  target: targets.Target, case: Case, form: compilation.Form | None
) -> Scaled:
  """Compiles one form, or the gathering of a direction, for some devices."""
  start = time.perf_counter()
  count = len(target.devices)
  try:
    if form is None:
      compiled = compilation.compile_gather(case, target.devices)
    else:
      compiled = compilation.compile_objective(case, form, target.devices)
  except jax.errors.JaxRuntimeError as error:
    reason = str(error).splitlines()[0]
    seconds = time.perf_counter() - start
    return Scaled(target.name, count, case, form, None, {}, seconds, reason)
  return Scaled(
    target.name,
    count,
    case,
    form,
    compilation.temporary_bytes(compiled),
    collectives.traffic(compiled.as_text() or "", count),
    time.perf_counter() - start,
  )


def _name(form: compilation.Form | None) -> str:
  return "all_gather of a direction, no more" if form is None else str(form)


def _write(done: Sequence[Scaled], output: Path, page: Path | None) -> None:
  """Writes what there is so far."""
  results = {"command": sys.argv, "compiled": [_as_json(each) for each in done]}
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")
  if page:
    shown = "\n\n".join(map(tables.as_markdown, _tables(done)))
    tables.write_markdown(page, _PLACE, shown)


def _as_json(scaled: Scaled) -> dict[str, Any]:
  return {
    **scaled._asdict(),
    "case": scaled.case._asdict(),
    "form": None if scaled.form is None else scaled.form._asdict(),
    "traffic": {k: each._asdict() for k, each in scaled.traffic.items()},
  }


def _tables(done: Sequence[Scaled]) -> list[tables.Table]:
  """Memory, and what is sent: forms by devices."""
  columns = list(dict.fromkeys((s.num_devices, s.case) for s in done))
  rows = list(dict.fromkeys(s.form for s in done))
  cells = {(s.form, s.num_devices): s for s in done}
  header = [f"{count:,} devices" for count, _ in columns]
  case = done[0].case
  what = (
    f"{case.batch // done[0].num_devices} instances on each device, "
    f"N={case.num_modalities} d={case.dim} {case.dtype}, "
    f"{done[0].topology.partition(':')[0]}"
  )
  gathered = [
    size(case.batch * case.dim * jax.numpy.dtype(case.dtype).itemsize)
    for _, case in columns
  ]
  shown = {
    f"Temporaries of a device: {what}": _memory,
    f"Sent by a device in a step: {what}": _sent,
  }
  return [
    tables.Table(
      title,
      ["", *header],
      [
        ["size of a direction of every instance", *gathered],
        *(
          [_name(form), *(cell(cells.get((form, n))) for n, _ in columns)]
          for form in rows
        ),
      ],
    )
    for title, cell in shown.items()
  ]


def _memory(scaled: Scaled | None) -> str:
  if scaled is None:
    return "not run"
  return scaled.failure or size(scaled.temporary_bytes)


def _sent(scaled: Scaled | None) -> str:
  if scaled is None:
    return "not run"
  return scaled.failure or (
    f"{size(int(scaled.sent_bytes()))}: "
    + ", ".join(
      f"{each.calls} {kind}" for kind, each in sorted(scaled.traffic.items())
    )
  )


if __name__ == "__main__":
  cli.run(main)
