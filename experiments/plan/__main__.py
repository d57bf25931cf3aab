r"""Tells what a run needs on devices that need not be there.

  python -m experiments.plan --config=experiments/configs/tri_modal.py \
    --topology=cpux8
  python -m experiments.plan --config=experiments/configs/pmrl_vast150k.py \
    --topology=v5e:4x4 --search --config.mesh.fsdp=-1

Compiles the training step of a config, as experiments.train would run it, and
prints memory, operations and what devices send each other. Nothing is run, and
no media are read: if a config's data is not there, shapes are those that its
`data.inputs` describes. TPUs need `pip install 'pmrl_jax[train,tpu]'`, in an
environment of its own, and no TPU; of GPUs that are not at hand there are
estimates only, from the compiler for CPUs. See docs/scale.md; exit codes: see
experiments/cli.py.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import ml_collections
import tqdm
from absl import flags
from ml_collections import config_flags

from experiments import cli, config_flag
from experiments.benchmarks import options, tables
from experiments.plan import report, search, shapes, targets
from experiments.plan.compilation import Plan, Step

_TOPOLOGY = flags.DEFINE_string(
  "topology", None, f"What to plan for: {targets.KNOWN}."
)
_BATCH = flags.DEFINE_integer(
  "batch_per_device",
  None,
  "Instances on each device. Default: config.batch_size, split evenly; with "
  "--search where it begins, by default with 1.",
)
_SEARCH = flags.DEFINE_bool(
  "search", False, "Find the largest batch per device, in powers of two."
)
_REFINE = flags.DEFINE_integer(
  "refine", 0, "How often --search halves the gap between powers of two."
)
_MOST = flags.DEFINE_integer(
  "most", 4096, "The largest batch per device that --search tries."
)
_CONTRAST = flags.DEFINE_bool(
  "contrast_alone", True, "Compile the contrastive part alone, too."
)
_COMPILE = flags.DEFINE_bool(
  "compile",
  True,
  "Without it only what needs no compiler, in seconds: sizes of arrays and "
  "operations.",
)
_JSON = flags.DEFINE_string(
  "json",
  None,
  "A file for all figures, written after every compilation; plans that are in "
  "it stay.",
)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(cli)


def main() -> None:
  """Plans from the flags."""
  if _TOPOLOGY.value is None:
    raise ValueError(f"--topology is missing; known are {targets.KNOWN}")
  options.check_positive(_BATCH, _MOST)
  if _REFINE.value < 0:
    raise ValueError(f"--refine must not be negative, got {_REFINE.value}")
  output = Path(_JSON.value) if _JSON.value else None
  earlier = report.read(output) if output else []
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, report.PLACE)

  config = config_flag.CONFIG.value
  target = targets.find(_TOPOLOGY.value)
  if _SEARCH.value and not _COMPILE.value:
    raise ValueError("--search compiles: leave out --nocompile, or --search")
  if _SEARCH.value and target.memory_bytes is None:
    raise ValueError(
      f"--search needs devices whose memory is known, and that of "
      f"{target.name} is not; say --batch_per_device instead"
    )
  known = shapes.find(config)
  step = Step(config, known.data, target)
  asked = _asked_batch(config.batch_size, len(target.devices))
  name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
  found = report.Report(
    config=name,
    overrides=report.overrides(sys.argv),
    target=target,
    plans=[],
    notes=_notes(config, known, len(target.devices)),
  )

  def keep(plans: list[Plan]) -> None:
    if output:
      report.write(output, earlier, found._replace(plans=plans))

  compiled = _plans(step, target, asked, keep)
  best = search.best(compiled)
  found = found._replace(plans=compiled)
  print(report.as_text(found))
  keep(compiled)
  if output:
    print(f"\nresults: {output}")
  if page:
    report.write_page(page, [*earlier, *report.as_json(found)])
  if best is None or (not _SEARCH.value and best.batch_per_device < asked):
    raise ValueError(report.advice(found, asked))


def _notes(
  config: ml_collections.ConfigDict, known: shapes.Shapes, num_devices: int
) -> list[str]:
  """What is to be known beside the figures."""
  notes = [known.note] if known.note else []
  matching = config.get("matching") or {}
  draws = bool(matching) and matching.get("matching_weight") != 0
  if draws and num_devices > 1 and matching.get("num_pools", 1) == 1:
    notes.append(
      "hard negatives are drawn from the whole batch, so every device is sent "
      "the conditions of all; with --config.matching.num_pools=-1 they are "
      "drawn from its own instances, and nothing is sent"
    )
  return notes


def _plans(
  step: Step,
  target: targets.Target,
  asked: int,
  keep: Callable[[list[Plan]], None],
) -> list[Plan]:
  """Compiles what was asked for, with a progress bar.

  Args:
    step: What to compile.
    target: The devices.
    asked: The batch per device to begin with.
    keep: Called with all plans so far after every compilation, which can take
      many minutes each.
  """
  if not _COMPILE.value:
    return [step.outline(asked)]
  done: list[Plan] = []
  with tqdm.tqdm(unit=" compilations") as bar:

    def compile_step(batch: int) -> Plan:
      bar.set_description(f"{target.name}, {batch} per device")
      done.append(step.compile(batch))
      bar.update()
      keep(done)
      return done[-1]

    plans = search.largest(
      compile_step,
      start=asked,
      most=_MOST.value if _SEARCH.value else asked,
      refinements=_REFINE.value,
    )
    best = search.best(plans)
    if best and _CONTRAST.value:
      bar.set_description(f"{target.name}, the contrastive part alone")
      plans[plans.index(best)] = step.with_contrast(best)
      bar.update()
  return plans


def _asked_batch(batch_size: int, num_devices: int) -> int:
  """Instances per device to begin with.

  Raises:
    ValueError: If the config's batch does not split evenly.
  """
  if _BATCH.value is not None:
    return _BATCH.value
  if _SEARCH.value:
    return 1
  if batch_size % num_devices:
    raise ValueError(
      f"config.batch_size = {batch_size} does not split evenly over "
      f"{num_devices} devices; say --batch_per_device, or --search"
    )
  return batch_size // num_devices


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  cli.run(main)
