"""The tables of a comparison: numbers, marks, and how they are printed."""

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.compare.contenders import Contender
from experiments.compare.measures import Interval, interval, level_with
from experiments.compare.store import Key
from experiments.compare.study import Plan, Runs, choose_temperature
from experiments.compare.trainer import batch_size
from experiments.compare.view_sets import ViewSet

_WIDTH = 100
BEST, LEVEL = "best", "level"


class Column(NamedTuple):
  """A measure of the test rows."""

  title: str
  key: str
  sign: int  # 1 if more is better, else -1


COLUMNS = (
  Column("mean R@1", "mean_R@1", 1),
  Column("worst dir.", "worst_R@1", 1),
  Column("one->rest", "rest_R@1", 1),
  Column("probe", "probe", 1),
  Column("flipped", "flipped_share", -1),
)
_MARKS = {BEST: "*", LEVEL: "="}


class Cell(NamedTuple):
  """A measure over the seeds."""

  mean: float
  half_width: float | None
  mark: str | None  # "best", "level" with the best, or None


class Row(NamedTuple):
  """A loss on one data set; without cells if there is nothing to say yet."""

  loss: str
  applies: bool
  temperature: float | None = None
  at_edge: bool = False  # of the grid of temperatures
  seeds: tuple[int, ...] = ()  # that are finished
  skipped_steps: int = 0
  seconds_per_step: float | None = None
  cells: Mapping[str, Cell] = {}
  values: Mapping[str, Mapping[int, float]] = {}  # {measure: {seed: value}}


def build_rows(
  runs: Runs,
  plan: Plan,
  set_name: str,
  view_set: ViewSet,
  contenders: Mapping[str, Contender],
) -> list[Row]:
  """Summarises the finished trainings on one data set.

  Args:
    runs: The finished trainings.
    plan: What was to be done.
    set_name: The name of the data set.
    view_set: The data set.
    contenders: The losses, in the order of the rows.

  Returns:
    One row per loss.
  """
  rows = []
  for loss, contender in contenders.items():
    if contender.fits(len(view_set.modalities)):
      rows.append(_row(runs, plan, set_name, loss, contender))
    else:
      rows.append(Row(loss, applies=False))
  return _marked(rows)


def _row(
  runs: Runs, plan: Plan, set_name: str, loss: str, contender: Contender
) -> Row:
  grid = plan.grid(contender)
  chosen = choose_temperature(runs, set_name, loss, grid)
  row = Row(loss, applies=True, temperature=chosen)
  if chosen is None:
    return row
  found = {
    seed: run
    for seed in range(plan.seeds)
    if (run := runs.get(Key(set_name, loss, chosen, seed))) and "test" in run
  }
  if not found:
    return row
  values = {
    column.key: {seed: run["test"][column.key] for seed, run in found.items()}
    for column in COLUMNS
  }
  return row._replace(
    at_edge=len(grid) > 2 and chosen in (grid[0], grid[-1]),
    seeds=tuple(found),
    skipped_steps=sum(run["skipped_steps"] for run in found.values()),
    seconds_per_step=float(
      np.median([run["seconds_per_step"] for run in found.values()])
    ),
    cells={
      key: Cell(*interval(list(by_seed.values())), None)
      for key, by_seed in values.items()
    },
    values=values,
  )


def _marked(rows: list[Row]) -> list[Row]:
  """Marks the best of every column and what is level with it."""
  filled = [row for row in rows if row.cells]
  marks: dict[tuple[str, str], str] = {}
  for column in COLUMNS:
    if not filled:
      break
    best = max(filled, key=lambda row: column.sign * row.cells[column.key].mean)
    for row in filled:
      if row.cells[column.key].mean == best.cells[column.key].mean:
        marks[row.loss, column.key] = BEST
      elif level_with(row.values[column.key], best.values[column.key]):
        marks[row.loss, column.key] = LEVEL
  return [
    row._replace(
      cells={
        key: cell._replace(mark=marks.get((row.loss, key)))
        for key, cell in row.cells.items()
      }
    )
    for row in rows
  ]


def as_json(rows: list[Row]) -> dict[str, Any]:
  """The numbers of a table, for `results.json`."""
  return {
    row.loss: {
      "applies": row.applies,
      "temperature": row.temperature,
      "at_edge_of_grid": row.at_edge,
      "seeds": list(row.seeds),
      "seconds_per_step": row.seconds_per_step,
      **{key: cell._asdict() for key, cell in row.cells.items()},
    }
    for row in rows
  }


def format_table(
  rows: list[Row],
  plan: Plan,
  set_name: str,
  view_set: ViewSet,
  contenders: Mapping[str, Contender],
  facts: list[str],
) -> str:
  """The table of one data set, at most 100 columns wide.

  Args:
    rows: From `build_rows`.
    plan: What was to be done.
    set_name: The name of the data set.
    view_set: The data set.
    contenders: The losses.
    facts: More to say in the head: where and by what it was computed.

  Returns:
    Lines without a newline at the end.
  """
  first = max(map(len, ("loss", *(row.loss for row in rows))))
  titles = "".join(column.title.rjust(13) for column in COLUMNS)
  lines = [
    *_head(plan, set_name, view_set, facts),
    "",
    f"{'loss':<{first}}{titles}{'ms/step':>9}{'temp.':>8}",
  ]
  lines += [_line(row, first) for row in rows]
  return "\n".join([*lines, "", *_foot(rows, plan, contenders)])


def format_legend(contenders: Mapping[str, Contender]) -> str:
  """A line of words for each loss."""
  width = max(map(len, contenders))
  return "\n".join(
    f"{name:<{width}}  {contender.words}"
    for name, contender in contenders.items()
  )


def _line(row: Row, first: int) -> str:
  name = row.loss.ljust(first)
  if not row.applies:
    return name + "- ".rjust(13) * len(COLUMNS) + f"{'-':>9}{'-':>7}"
  if not row.cells:
    return f"{name}   not finished"
  cells = "".join(_cell(row.cells[column.key]) for column in COLUMNS)
  milliseconds = f"{(row.seconds_per_step or 0) * 1e3:.1f}"
  edge = "^" if row.at_edge else " "
  return f"{name}{cells}{milliseconds:>9}{row.temperature or 0:>7g}{edge}"


def _cell(cell: Cell) -> str:
  return (number(cell) + _MARKS.get(cell.mark or "", " ")).rjust(13)


def number(cell: Cell | Interval) -> str:
  """A mean and half its interval, as `0.985±.004`."""
  if cell.half_width is None:
    return f"{cell.mean:.3f}"
  half_width = f"{cell.half_width:.3f}"
  return f"{cell.mean:.3f}±{half_width.removeprefix('0')}"


def _head(
  plan: Plan, set_name: str, view_set: ViewSet, facts: list[str]
) -> list[str]:
  num = [len(rows.labels) for rows in view_set[1:]]
  text = (
    f"{len(view_set.modalities)} modalities "
    f"({', '.join(view_set.modalities)}); {num[0]:,} training, {num[1]:,} "
    f"validation and {num[2]:,} test instances. {plan.steps:,} steps of "
    f"{batch_size(num[0])}, {plan.seeds} seeds; " + "; ".join(facts)
  )
  title = f"{set_name}: {view_set.title}"
  lines = [title, "=" * len(title), *textwrap.wrap(text, _WIDTH)]
  if plan.quick:
    lines += textwrap.wrap(
      "QUICK: few rows, steps and temperatures. It shows that all runs, not "
      "which loss is best.",
      _WIDTH,
    )
  return lines


def _foot(
  rows: list[Row], plan: Plan, contenders: Mapping[str, Contender]
) -> list[str]:
  """What the signs in the table mean; only of those that are in it."""
  notes = [
    "±: half of the 95 % interval over seeds (Student's t).  *: best.  =: "
    "level with the best (the 95 % interval of the difference, seed by seed, "
    "holds 0).",
    "R@1 by cosine, relevant is the same instance. worst dir.: the worst of "
    "the ordered pairs of modalities. one->rest: to the direction of all "
    "others. probe: accuracy of a linear classifier on the leading direction. "
    "flipped: share of true pairs with a negative cosine. temp.: chosen on "
    "the validation rows.",
  ]
  if any(row.at_edge for row in rows):
    notes.append("^: at the edge of its grid; others might do better.")
  for row in rows:
    num_modalities = contenders[row.loss].num_modalities
    if not row.applies:
      notes.append(f"-: {row.loss} is for {num_modalities} modalities only.")
    if row.cells and len(row.seeds) < plan.seeds:
      notes.append(
        f"{row.loss}: {len(row.seeds)} of {plan.seeds} seeds so far."
      )
    if row.skipped_steps:
      notes.append(
        f"{row.loss}: {row.skipped_steps} steps without a finite gradient "
        "were skipped."
      )
  return [line for note in notes for line in textwrap.wrap(note, _WIDTH)]
