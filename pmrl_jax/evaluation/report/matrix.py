"""Retrieval scores as a heat map."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pmrl_jax.evaluation.embedding_set import REST
from pmrl_jax.evaluation.report import style


@style.styled
def retrieval_matrix(
  retrieval: Mapping[str, Mapping[str, float]], modalities: Sequence[str]
) -> Figure:
  """R@1 of every ordered pair of modalities, and of each one to the rest.

  Args:
    retrieval: what `cross_modal_retrieval` returned.
    modalities: names, in the order of rows and columns.

  Returns:
    The figure: a row per query modality, a column per gallery.
  """
  size = len(modalities)
  columns = [*(style.cut(name, 16) for name in modalities), REST]
  values = np.full((size, size + 1), np.nan)
  for i, query in enumerate(modalities):
    for j, gallery in enumerate([*modalities, REST]):
      scores = retrieval.get(f"{query}->{gallery}", {})
      values[i, j] = style.finite(scores.get("R@1"))
  longest = max(map(len, columns))
  tilt = longest > 8
  figure = style.new_figure(
    1.3 + 0.07 * longest + 0.57 * size,
    (0.5 + 0.04 * longest if tilt else 0.5) + 0.5 * size,
  )
  axes = figure.add_subplot()
  # A gap sets the "rest" column apart: it is not a modality.
  edges = np.array([*range(size + 1), size + 0.2, size + 1.2])
  padded = np.insert(values, size, np.nan, axis=1)
  mesh = axes.pcolormesh(
    edges,
    np.arange(size + 1),
    padded,
    cmap="Blues",
    vmin=0,
    vmax=1,
    edgecolors="white",
    linewidth=1.5,
  )
  centres = np.array([*np.arange(size) + 0.5, size + 0.7])
  for i in range(size):
    for j in range(size + 1):
      axes.text(
        centres[j],
        i + 0.5,
        _cell(values[i, j], i == j),
        ha="center",
        va="center",
        color="white" if values[i, j] > 0.6 else style.INK,
      )
  axes.set_xticks(
    centres,
    columns,
    rotation=35 if tilt else 0,
    ha="left" if tilt else "center",
    rotation_mode="anchor",
  )
  axes.set_yticks(np.arange(size) + 0.5, columns[:-1])
  axes.xaxis.tick_top()
  axes.xaxis.set_label_position("top")
  axes.set(xlabel="gallery", ylabel="query", aspect="equal")
  axes.invert_yaxis()
  axes.tick_params(length=0)
  axes.grid(False)
  axes.spines[:].set_visible(False)
  bar = figure.colorbar(mesh, ax=axes, shrink=0.9, pad=0.03, aspect=14)
  bar.set_label("R@1 (share)")
  bar.outline.set_visible(False)
  return figure


def _cell(value: float, diagonal: bool) -> str:
  """A number of the matrix; nothing on the diagonal."""
  if np.isfinite(value):
    return f"{value:.3f}"
  return "" if diagonal else "–"
