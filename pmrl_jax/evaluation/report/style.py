"""One look for all figures: colours, marks, sizes, and how they are saved.

Figures are made with `matplotlib.figure.Figure` and never with pyplot, so
nothing stays behind in the caller's process.
"""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DPI = 200
FULL_WIDTH = 7.2  # inches: the text width of a page

# Okabe and Ito's colours, told apart with any common colour blindness.
INK = "#222222"
GREY = "#8A8A8A"
LINES = (
  "#0072B2",
  "#D55E00",
  "#009E73",
  "#CC79A7",
  "#E69F00",
  "#56B4E9",
  "#000000",
  "#7F6A00",
)
RIGHT, WRONG = "#009E73", "#D55E00"

# Paul Tol's "muted" scheme: nine hues and a grey.
CLASSES = (
  "#332288",
  "#CC6677",
  "#117733",
  "#DDCC77",
  "#88CCEE",
  "#AA4499",
  "#44AA99",
  "#882255",
  "#999933",
  "#8A8A8A",
)
MARKS = ("o", "^", "s", "D", "P", "X", "v", "*")

_PARAMETERS: dict[Any, Any] = {
  "font.family": ["DejaVu Sans"],
  "font.size": 8,
  "axes.titlesize": 8.5,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.labelsize": 8,
  "axes.labelcolor": INK,
  "axes.edgecolor": INK,
  "axes.linewidth": 0.6,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.axisbelow": True,
  "axes.grid": True,
  "grid.color": "#E6E6E6",
  "grid.linewidth": 0.6,
  "xtick.labelsize": 7,
  "ytick.labelsize": 7,
  "xtick.color": INK,
  "ytick.color": INK,
  "xtick.major.width": 0.6,
  "ytick.major.width": 0.6,
  "legend.fontsize": 7,
  "legend.frameon": False,
  "legend.handlelength": 1.4,
  "lines.linewidth": 1.4,
  "lines.solid_capstyle": "round",
  "text.color": INK,
  "text.usetex": False,
  # Names and texts come from users: a dollar sign is a dollar sign.
  "text.parse_math": False,
  "savefig.facecolor": "white",
  "figure.facecolor": "white",
  "axes.facecolor": "white",
}

styled = matplotlib.rc_context(_PARAMETERS)
"""Decorator: draws with this look, and leaves matplotlib's settings alone."""


def new_figure(width: float, height: float) -> Figure:
  """An empty figure with constrained layout; sizes in inches."""
  return Figure(figsize=(width, height), layout="constrained")


@styled
def png_bytes(figure: Figure) -> bytes:
  """Renders a figure as PNG, without a date or a program's name in it."""
  stream = io.BytesIO()
  with warnings.catch_warnings():
    # A script that the font lacks is drawn as boxes; that is no reason to
    # lose the report or to flood the console.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
    figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
  return stream.getvalue()


def legend_above(axes: Axes, columns: int) -> None:
  """A one-line legend on top of the axes, where it hides no data."""
  axes.legend(
    loc="lower left",
    bbox_to_anchor=(0, 1.0),
    ncols=columns,
    borderaxespad=0.1,
    columnspacing=1.2,
  )


def cut(text: str, length: int) -> str:
  """Shortens a text that may be long, with an ellipsis."""
  return text if len(text) <= length else text[: length - 1] + "…"


def class_name(label: int, class_names: Sequence[str] | None) -> str:
  """The name of a label, or the label itself if it has none."""
  if class_names is not None and 0 <= label < len(class_names):
    return str(class_names[label])
  return str(label)


def finite(value: Any) -> float:
  """A float, with NaN for what is missing, infinite or not a number."""
  try:
    number = float(value)
  except (TypeError, ValueError):
    return math.nan
  return number if math.isfinite(number) else math.nan
