"""The picture of a comparison: mean R@1 by loss, the best on top."""

import math
from pathlib import Path

from experiments.compare.tables import Row, number
from pmrl_jax.evaluation.report import style

_MEASURE = "mean_R@1"
_ROW_HEIGHT = 0.26  # inches


@style.styled
def write_figure(path: Path, title: str, rows: list[Row]) -> bool:
  """Draws means, intervals and single seeds of the losses, sorted.

  Args:
    path: Where the PNG goes.
    title: What the data is.
    rows: From `tables.build_rows`.

  Returns:
    Whether there was something to draw.
  """
  filled = sorted(
    (row for row in rows if row.cells),
    key=lambda row: row.cells[_MEASURE].mean,
  )
  if not filled:
    return False
  height = 0.75 + _ROW_HEIGHT * len(filled)
  figure = style.new_figure(style.FULL_WIDTH, height)
  axes = figure.subplots()
  for place, row in enumerate(filled):
    cell = row.cells[_MEASURE]
    ours = row.loss.startswith("pmrl")
    colour = style.LINES[0] if ours else style.LINES[1]
    seeds = list(row.values[_MEASURE].values())
    axes.plot([0, cell.mean], [place] * 2, color=colour, alpha=0.25, lw=3)
    axes.errorbar(
      cell.mean,
      place,
      xerr=cell.half_width,
      fmt=style.MARKS[0] if ours else style.MARKS[2],
      markersize=5,
      capsize=2.5,
      color=colour,
    )
    axes.plot(seeds, [place] * len(seeds), "|", color=style.INK, markersize=6)
    axes.annotate(
      number(cell),
      (1.0, place),
      xycoords=("axes fraction", "data"),
      xytext=(4, 0),
      textcoords="offset points",
      va="center",
      fontsize=7,
      annotation_clip=False,
    )
  axes.set_yticks(range(len(filled)), [row.loss for row in filled])
  axes.set_ylim(-0.6, len(filled) - 0.4)
  reach = max(
    value
    for row in filled
    for value in (
      row.cells[_MEASURE].mean + (row.cells[_MEASURE].half_width or 0),
      *row.values[_MEASURE].values(),
    )
  )
  axes.set_xlim(0, min(1.0, math.ceil(reach * 10) / 10) or 0.1)
  axes.grid(axis="y", visible=False)
  axes.set_xlabel(
    "R@1, mean of all directions, with 95 % interval and single seeds; "
    "circles: PMRL, squares: others"
  )
  axes.set_title(title)
  path.write_bytes(style.png_bytes(figure))
  return True
