"""Plans as tables, as JSON, and as advice."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from experiments import workdir
from experiments.benchmarks import tables
from experiments.benchmarks.report import size
from experiments.plan import search, targets
from experiments.plan.compilation import Plan

PLACE = "plans"  # of the tables in a page
_VERDICTS = {True: "yes", False: "NO", None: "unknown"}
_NOT_COMPILED = "not compiled"
_COMPILERS = {
  "tpu": "figures are those of the compiler for TPUs",
  "gpu": "figures are those of the compiler for GPUs",
  "cpu": "figures are those of the compiler for CPUs",
}
ESTIMATE = (
  "ESTIMATE: compiled for as many pretended CPUs, not for these GPUs. "
  "Parameters, optimizer, batch and operations are exact; temporaries and "
  "what is sent are those of a compiler that fuses, schedules and computes "
  "bfloat16 in other ways"
)


class Report(NamedTuple):
  """What was planned by one command."""

  config: str  # name of its file
  overrides: list[str]
  target: targets.Target
  plans: list[Plan]  # by batch per device
  notes: list[str]


def overrides(argv: Sequence[str]) -> list[str]:
  """The changes of the config on a command line."""
  return [a.lstrip("-") for a in argv[1:] if a.startswith("--config.")]


def as_text(report: Report) -> str:
  """All that a terminal shows."""
  target = report.target
  parts = [
    ESTIMATE if target.estimated else _COMPILERS[target.compiler],
    *report.notes,
    _memory_sentence(target),
  ]
  lines = [f"note: {part}" for part in parts]
  shown = [tables.as_text(each) for each in _tables(as_json(report))]
  best = search.best(report.plans)
  if best and best.memory.total is not None:
    lines.append(
      f"largest batch tried that fits: {best.batch_per_device} per device, "
      f"{best.batch_per_device * best.num_devices():,} in all"
    )
  return "\n\n".join(["\n".join(lines), *shown])


def advice(report: Report, asked: int) -> str:
  """What fits where what was asked for does not."""
  plans, target = report.plans, report.target
  refused = plans[-1] if plans[-1].failure else plans[0]
  why = f" ({refused.failure})" if refused.failure else ""
  best = search.best(plans)
  if best:
    return (
      f"a batch of {asked} per device does not fit {target.name}{why}; "
      f"{best.batch_per_device} per device does"
    )
  memory = plans[0].memory
  state = memory.parameters + memory.optimizer
  share = state // plans[0].num_devices()
  return (
    f"not even a batch of {plans[0].batch_per_device} per device fits "
    f"{target.name}{why}: parameters and optimizer take {size(state)} of each "
    "device. Split them over more devices with --config.mesh.fsdp=-1 (if they "
    f"are copies now: down to about {size(share)}), compute more again "
    "(remat of the encoders), or plan for more devices or larger ones"
  )


def as_json(report: Report) -> list[dict[str, Any]]:
  """Plans as JSON can hold them."""
  target = report.target
  return [
    {
      "config": report.config,
      "overrides": report.overrides,
      **plan._asdict(),
      "memory": plan.memory._asdict(),
      "traffic": {k: each._asdict() for k, each in plan.traffic.items()},
      "memory_of_device": target.memory_bytes,
      "source": target.source,
      "compiler": target.compiler,
      "estimated": target.estimated,
      "jax": jax.__version__,
    }
    for plan in report.plans
  ]


def read(path: Path) -> list[dict[str, Any]]:
  """The plans of a file; none if it is not there.

  Raises:
    ValueError: If the file holds something else.
  """
  if not path.exists():
    return []
  try:
    return json.loads(path.read_text())["plans"]
  except (ValueError, KeyError, TypeError):
    raise ValueError(
      f"--json: {path} exists and holds no plans; choose another file"
    ) from None


def write(
  path: Path, earlier: Sequence[dict[str, Any]], report: Report
) -> None:
  """Writes plans beside those that are there; the same ones anew."""
  new = as_json(report)
  names = [_name(plan) for plan in new]
  kept = [plan for plan in earlier if _name(plan) not in names]
  path.parent.mkdir(parents=True, exist_ok=True)
  results = {"command": sys.argv, "plans": [*kept, *new]}
  workdir.write_atomically(path, json.dumps(results, indent=1) + "\n")


def write_page(path: Path, plans: Sequence[dict[str, Any]]) -> None:
  """Writes the tables of all plans into a page; of the same ones the last."""
  last = {str(_name(plan)): plan for plan in plans}
  shown = [tables.as_markdown(each) for each in _tables(list(last.values()))]
  tables.write_markdown(path, PLACE, "\n\n".join(shown))


def _name(plan: Mapping[str, Any]) -> list[Any]:
  """What tells a plan from others."""
  names = ("config", "overrides", "topology", "mesh", "batch_per_device")
  return [plan[name] for name in names]


def _tables(plans: Sequence[dict[str, Any]]) -> list[tables.Table]:
  """Memory, and operations and what is sent, by config."""
  titles = dict.fromkeys(
    " ".join([plan["config"], *plan["overrides"]]) for plan in plans
  )
  found = []
  for title in titles:
    chosen = [
      plan
      for plan in plans
      if " ".join([plan["config"], *plan["overrides"]]) == title
    ]
    found.append(
      tables.Table(
        f"{title}: memory of a device",
        [
          "devices (data x fsdp)",
          "batch per device",
          "parameters",
          "optimizer",
          "batch",
          "gradients, activations",
          "contrast alone",
          "in all",
          "of",
          "fits",
        ],
        [_memory_row(plan) for plan in chosen],
      )
    )
    found.append(
      tables.Table(
        f"{title}: operations of matrix products, and what a device sends",
        [
          "devices",
          "batch per device",
          "TFLOP per step",
          "per device",
          "sent per device and step",
        ],
        [_work_row(plan) for plan in chosen if not plan["failure"]],
      )
    )
  return found


def _memory_row(plan: Mapping[str, Any]) -> list[str]:
  memory, mesh = plan["memory"], plan["mesh"]
  verdict = plan["failure"] or _VERDICTS[plan["fits"]]
  if not plan["failure"] and memory["total"] is None:
    verdict = _NOT_COMPILED
  return [
    f"{plan['topology']} ({mesh['data']} x {mesh['fsdp']})",
    str(plan["batch_per_device"]),
    *(size(memory[part]) for part in ("parameters", "optimizer", "batch")),
    size(memory["temporary"]),
    size(plan["contrast"]),
    size(memory["total"]),
    size(plan["memory_of_device"]),
    f"estimate: {verdict}" if plan["estimated"] else verdict,
  ]


def _work_row(plan: Mapping[str, Any]) -> list[str]:
  count = plan["mesh"]["data"] * plan["mesh"]["fsdp"]
  sent = [
    f"{each['calls']} {kind} {size(each['sent_bytes'])}"
    for kind, each in sorted(plan["traffic"].items())
  ]
  return [
    plan["topology"],
    str(plan["batch_per_device"]),
    f"{plan['flops'] / 1e12:.4g}",
    f"{plan['flops'] / count / 1e12:.4g}",
    "; ".join(sent)
    or (_NOT_COMPILED if plan["memory"]["total"] is None else "nothing"),
  ]


def _memory_sentence(target: targets.Target) -> str:
  if target.memory_bytes is None:
    return (
      f"the memory of {target.name} is not known, so nothing can be refused"
    )
  return (
    f"{target.name}: {len(target.devices)} devices of "
    f"{size(target.memory_bytes)} ({target.source})"
  )
