"""What changed while a run was training: curves over the steps.

Missing measures (an empty history, NaN) leave gaps, never errors.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from pmrl_jax.evaluation.report import style

History = Sequence[Mapping[str, Any]]

_LOSSES = (("loss", style.INK), *zip(("alignment", "instance"), style.LINES))
_RATES = (("mean_R@1", style.LINES[2]), ("flipped_share", style.LINES[1]))
_NAMES = {"mean_R@1": "mean R@1", "flipped_share": "flipped share"}
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# More points than this are drawn faintly, under their running mean.
_SMOOTH_ABOVE = 150


def series(
  history: History, kind: str, key: str
) -> tuple[np.ndarray, np.ndarray]:
  """One measure over the steps.

  Args:
    history: rows with "step", "kind" and measures.
    kind: "train" or "eval".
    key: name of the measure.

  Returns:
    Steps `[row]` and values `[row]`, in the order of the steps; only rows
    that have the measure, with NaN where it is not finite.
  """
  rows = sorted(
    (row["step"], style.finite(row[key]))
    for row in history
    if row.get("kind") == kind and key in row
  )
  steps, values = np.array(rows, np.float64).reshape(-1, 2).T
  return steps, values


@style.styled
def training_curves(history: History) -> Figure | None:
  """Loss terms, retrieval, gradient norm and learning rate over the steps.

  Args:
    history: rows of "train" and "eval" measures.

  Returns:
    The figure, or None if the history has nothing to draw.
  """
  panels = {
    "losses": any(_has(history, "train", key) for key, _ in _LOSSES),
    "rates": any(_has(history, "eval", key) for key, _ in _RATES),
    "grad_norm": _has(history, "train", "grad_norm"),
    "learning_rate": _has(history, "train", "learning_rate"),
  }
  main = [name for name in ("losses", "rates") if panels[name]]
  small = [name for name in ("grad_norm", "learning_rate") if panels[name]]
  rows = [row for row in (main, small) if row]
  if not rows:
    return None
  # A row with one panel only gives it the whole width.
  mosaic: list[Any] = [row * 2 if len(row) == 1 else row for row in rows]
  heights = [2.6 if row is main else 1.35 for row in rows]
  figure = style.new_figure(style.FULL_WIDTH, sum(heights))
  axes = figure.subplot_mosaic(mosaic, height_ratios=heights)
  if "losses" in axes:
    for key, colour in _LOSSES:
      _curve(axes["losses"], *series(history, "train", key), colour, key)
    axes["losses"].set_ylabel("loss (nats)")
    style.legend_above(axes["losses"], 3)
  if "rates" in axes:
    for key, colour in _RATES:
      steps, values = series(history, "eval", key)
      _curve(axes["rates"], steps, values, colour, _NAMES[key], marker="o")
    axes["rates"].set(ylabel="share (0 to 1)", ylim=(-0.03, 1.03))
    style.legend_above(axes["rates"], 2)
  if "grad_norm" in axes:
    steps, values = series(history, "train", "grad_norm")
    _curve(axes["grad_norm"], steps, values, style.GREY, "gradient norm")
    axes["grad_norm"].set_ylabel("gradient norm")
    _log_scale(axes["grad_norm"], values)
  if "learning_rate" in axes:
    steps, values = series(history, "train", "learning_rate")
    power = _power_of_ten(values)
    scaled = values / 10.0**power
    _curve(axes["learning_rate"], steps, scaled, style.GREY, "", smooth=False)
    unit = f"\n(×10{str(power).translate(_SUPERSCRIPTS)})" if power else ""
    axes["learning_rate"].set_ylabel(f"learning rate{unit}")
  for panel in axes.values():
    _step_axis(panel)
  return figure


@style.styled
def spectrum_curves(
  history: History, spectrum: Sequence[float]
) -> Figure | None:
  """Mean singular values over the steps, or at the end if that is all.

  Args:
    history: rows of measures; "eval" rows may have a "spectrum".
    spectrum: final mean singular values, `[modality]` or empty.

  Returns:
    The figure, or None if no spectrum is known.
  """
  rows = [
    (row["step"], [style.finite(value) for value in row["spectrum"]])
    for row in sorted(history, key=lambda row: row["step"])
    if row.get("kind") == "eval" and row.get("spectrum")
  ]
  size = len(rows[-1][1]) if rows else len(spectrum)
  rows = [row for row in rows if len(row[1]) == size]
  if not size:
    return None
  full = math.sqrt(size)
  figure = style.new_figure(4.6, 2.7)
  axes = figure.add_subplot()
  guide: dict[str, Any] = {"color": style.GREY, "lw": 0.9, "zorder": 1}
  axes.axhline(full, ls="--", label=f"√{size}: fully aligned", **guide)
  axes.axhline(1.0, ls=":", label="1: orthogonal", **guide)
  if len(rows) > 1:
    steps = np.array([step for step, _ in rows])
    values = np.array([value for _, value in rows])
    for i in range(size):
      colour = style.LINES[i % len(style.LINES)]
      _curve(axes, steps, values[:, i], colour, _sigma(i), marker="o")
    _step_axis(axes)
  else:
    values = np.array([style.finite(value) for value in spectrum or rows[0][1]])
    for i in range(size):
      colour = style.LINES[i % len(style.LINES)]
      axes.bar(i, values[i], 0.6, color=colour)
    axes.set_xticks(range(size), [_sigma(i) for i in range(size)])
    axes.set_xlabel("singular value")
    axes.grid(axis="x", visible=False)
  axes.set(ylabel="mean singular value", ylim=(0, full * 1.06))
  axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
  return figure


def _curve(
  axes: Axes,
  steps: np.ndarray,
  values: np.ndarray,
  colour: str,
  label: str,
  marker: str | None = None,
  smooth: bool = True,
) -> None:
  """Draws one line; many points faintly, under their running mean."""
  if not len(steps):
    return
  if smooth and len(steps) > _SMOOTH_ABOVE:
    axes.plot(steps, values, color=colour, lw=0.5, alpha=0.3)
    values, marker = _running_mean(values, len(values) // 50), None
  elif len(steps) == 1:
    marker = "o"
  axes.plot(steps, values, color=colour, label=label, marker=marker, ms=3)


def _step_axis(axes: Axes) -> None:
  """Labels the steps, which are whole numbers even if there is but one."""
  axes.set_xlabel("training step")
  low, high = axes.get_xlim()
  if high - low < 1:
    middle = round((low + high) / 2)
    axes.set_xlim(middle - 1, middle + 1)
  axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
  """Centred mean of the finite values; the window shrinks at the ends."""
  window = np.ones(2 * (width // 2) + 1)
  finite = np.isfinite(values)
  total = np.convolve(np.where(finite, values, 0.0), window, "same")
  count = np.convolve(finite.astype(np.float64), window, "same")
  return np.where(finite, total / np.maximum(count, 1), np.nan)


def _log_scale(axes: Axes, values: np.ndarray) -> None:
  """A log axis where the values allow and need it."""
  positive = values[np.isfinite(values)]
  if positive.size and positive.min() > 0 and np.ptp(np.log10(positive)) > 1:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _short(value: float, _: int | None = None) -> str:
  """A tick label of a log axis, as a plain number."""
  return f"{value:.3g}"


def _power_of_ten(values: np.ndarray) -> int:
  """The power that brings the largest value to between 1 and 10."""
  largest = np.nanmax(np.abs(values), initial=0.0)
  return math.floor(math.log10(largest)) if largest > 0 else 0


def _sigma(index: int) -> str:
  """σ with a subscript from 1."""
  return "σ" + str(index + 1).translate(_SUBSCRIPTS)


def _has(history: History, kind: str, key: str) -> bool:
  """Whether a measure has a finite value anywhere."""
  return bool(np.isfinite(series(history, kind, key)[1]).any())
