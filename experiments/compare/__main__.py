"""Which loss is best? Trains them all alike and prints a table per data set.

  python -m experiments.compare
  python -m experiments.compare --quick
  python -m experiments.compare --losses=pmrl,infonce_pairs --seeds=5

Same encoders, batches, steps and seeds for every loss; each loss chooses its
temperature on validation rows, with the first seed; test rows are measured
once, when that is done. Leaves results.json, tables.txt and a figure per set
in --workdir. The same command goes on where a stopped one was.
"""

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tqdm
from absl import flags

from experiments import cli
from experiments import workdir as workdirs
from experiments.compare.contenders import (
  CONTENDERS,
  Contender,
  choose_contenders,
)
from experiments.compare.figure import write_figure
from experiments.compare.store import Store, open_store
from experiments.compare.study import Plan, run_study, settings
from experiments.compare.tables import (
  as_json,
  build_rows,
  format_legend,
  format_table,
  number,
)
from experiments.compare.view_sets import VIEW_SETS, ViewSet, load_view_sets
from pmrl_jax import training

_STEPS, _QUICK_STEPS = 400, 30

_SETS = flags.DEFINE_list(
  "sets",
  ["digits", "mfeat"],
  f"Data sets: some of {', '.join(VIEW_SETS)}. The last two need --data.",
)
_LOSSES = flags.DEFINE_list(
  "losses", list(CONTENDERS), "Losses, in the order of the rows."
)
_SEEDS = flags.DEFINE_integer(
  "seeds",
  3,
  "Trainings of every loss at its temperature.",
  lower_bound=1,
)
_STEPS_FLAG = flags.DEFINE_integer(
  "steps",
  None,
  f"Steps of every training. Default: {_STEPS}, with --quick {_QUICK_STEPS}.",
  lower_bound=1,
)
_QUICK = flags.DEFINE_bool(
  "quick",
  False,
  "Fewer rows, steps and temperatures: shows whether all runs, not which loss "
  "is best. Goes to runs/compare_quick by default.",
  # Other programs have a flag of this name, too.
  allow_override=True,
)
_DATA = flags.DEFINE_string(
  "data",
  None,
  "The folder with the sets that do not ship: emoji/emoji32.npz, "
  "tcga_brca/tcga_brca348.npz.",
)
flags.adopt_module_key_flags(cli)


class Stopped(training.Interrupted):
  """The user stopped the comparison; what is finished is kept."""

  def __init__(self, signal_number: int, kept: str):
    """Keeps which signal it was, and says what is kept."""
    Exception.__init__(self, kept)
    self.signal_number = signal_number


class _Terminated(KeyboardInterrupt):
  """SIGTERM, which may come as unexpectedly as a Ctrl-C."""


def main() -> None:
  """Compares from the flags."""
  quick = _QUICK.value
  plan = Plan(
    steps=_STEPS_FLAG.value or (_QUICK_STEPS if quick else _STEPS),
    seeds=_SEEDS.value,
    quick=quick,
  )
  workdir = cli.WORKDIR.value or f"runs/compare{'_quick' if quick else ''}"
  contenders = choose_contenders(_LOSSES.value)
  folder = Path(_DATA.value) if _DATA.value else None
  view_sets = load_view_sets(_SETS.value, folder)
  if quick:
    view_sets = {name: full.thinned() for name, full in view_sets.items()}
  compare(plan, contenders, view_sets, Path(workdir))


def compare(
  plan: Plan,
  contenders: Mapping[str, Contender],
  view_sets: Mapping[str, ViewSet],
  workdir: Path,
) -> None:
  """Runs a comparison in its folder, from the start or where it was stopped.

  Args:
    plan: How much is done.
    contenders: The losses.
    view_sets: The data.
    workdir: Where the results are kept.

  Raises:
    ValueError: If the folder holds something else.
    Stopped: After SIGINT or SIGTERM; what is finished has been written.
  """
  with open_store(workdir, settings(plan, view_sets, contenders)) as store:
    try:
      with _terminable(), _progress(store, plan, contenders, view_sets) as bar:
        for name, loss in run_study(store, plan, view_sets, contenders, bar):
          _say_finished(store, plan, name, view_sets[name], loss, contenders)
    except KeyboardInterrupt as error:
      _write_outputs(store, plan, contenders, view_sets)
      terminated = isinstance(error, _Terminated)
      raise Stopped(
        signal.SIGTERM if terminated else signal.SIGINT,
        f"interrupted: {len(store.runs)} trainings are kept in {workdir}",
      ) from None
    print(_write_outputs(store, plan, contenders, view_sets))
    print(f"\n{workdir}: results.json, tables.txt, a .png per set", flush=True)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
  """Turns SIGTERM into an exception; a second one ends the process at once."""

  def handle(number: int, frame: Any) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
    raise _Terminated

  previous = signal.signal(signal.SIGTERM, handle)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, previous)


@contextlib.contextmanager
def _progress(
  store: Store,
  plan: Plan,
  contenders: Mapping[str, Contender],
  view_sets: Mapping[str, ViewSet],
) -> Iterator[tqdm.tqdm]:
  """A bar with the time left; on a terminal only."""
  total, done = 0, 0
  for name, view_set in view_sets.items():
    weight = len(view_set.modalities)  # what a training costs, roughly
    for loss, contender in contenders.items():
      if contender.fits(weight):
        trainings = plan.num_trainings(contender)
        stored = sum(
          (run.view_set, run.loss) == (name, loss)
          and run.temperature in plan.grid(contender)
          and run.seed < plan.seeds
          for run in store.runs
        )
        total += weight * trainings
        done += weight * min(trainings, stored)
  with tqdm.tqdm(
    total=total,
    initial=done,
    bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left",
    dynamic_ncols=True,
    leave=False,
    disable=not sys.stderr.isatty(),
  ) as bar:
    yield bar


def _say_finished(
  store: Store,
  plan: Plan,
  set_name: str,
  view_set: ViewSet,
  loss: str,
  contenders: Mapping[str, Contender],
) -> None:
  """A line per loss and data set, above the bar."""
  [row] = build_rows(
    store.runs, plan, set_name, view_set, {loss: contenders[loss]}
  )
  tqdm.tqdm.write(
    f"{set_name}: {loss} at temperature {row.temperature:g}: mean R@1 "
    f"{number(row.cells['mean_R@1'])}",
    file=sys.stdout,
  )
  sys.stdout.flush()


def _write_outputs(
  store: Store,
  plan: Plan,
  contenders: Mapping[str, Contender],
  view_sets: Mapping[str, ViewSet],
) -> str:
  """Writes tables and figures of what is finished; returns the tables."""
  facts = [
    f"code {', '.join(store.revisions)}",
    f"jax {workdirs.versions()['jax']}",
    workdirs.devices(),
  ]
  tables, texts = {}, []
  for name, view_set in view_sets.items():
    rows = build_rows(store.runs, plan, name, view_set, contenders)
    tables[name] = as_json(rows)
    texts.append(format_table(rows, plan, name, view_set, contenders, facts))
    quick = " (quick)" if plan.quick else ""
    write_figure(
      store.folder / f"{name}.png", f"{name}{quick}: {view_set.title}", rows
    )
  text = "\n\n\n".join([*texts, format_legend(contenders)])
  store.save(
    losses={
      name: {"words": c.words, "temperatures": list(plan.grid(c))}
      for name, c in contenders.items()
    },
    tables=tables,
  )
  workdirs.write_atomically(store.folder / "tables.txt", text + "\n")
  return "\n" + text


if __name__ == "__main__":
  cli.run(main)
