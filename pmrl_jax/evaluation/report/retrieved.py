"""A look at single queries: what was asked and what came back."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pmrl_jax.evaluation.embedding_set import (
  EmbeddingSet,
  Records,
  modality_records,
)
from pmrl_jax.evaluation.report import style
from pmrl_jax.evaluation.retrieval import relevance

NUM_RESULTS = 5
MIN_ROWS, MAX_ROWS = 6, 8
_DECIBELS = 60.0  # range of a drawn spectrogram
_RANKS = ("1st", "2nd", "3rd", "4th", "5th")


class Display(NamedTuple):
  """How the records of a modality are drawn."""

  kind: str  # "image", "waveform", "text", "trajectory" or "vector"
  # By item id: [height, width(, 3)], [time], str, [point, 2], [feature]
  values: Sequence[Any] | np.ndarray
  sample_rate: int | None = None  # Hz, of waveforms


class Example(NamedTuple):
  """One query and its nearest records of another modality."""

  query: str  # modality
  gallery: str  # another modality
  query_item: int
  items: np.ndarray  # [result] int, nearest first
  cosines: np.ndarray  # [result]
  relevant: np.ndarray  # [result] bool
  query_label: int | None
  labels: np.ndarray | None  # [result] int


def retrieve_examples(
  embedding_set: EmbeddingSet,
  modalities: Sequence[str],
  *,
  level: str,
  seed: int = 0,
) -> list[Example]:
  """Draws queries at random and finds their nearest records.

  Args:
    embedding_set: embeddings of one split.
    modalities: those that may ask and answer.
    level: "class" or "instance": what is relevant.
    seed: of the draw.

  Returns:
    At most `MAX_ROWS` examples, ordered by query modality. Each ordered pair
    of modalities gets its turn, neighbours in the given order first; where
    pairs are few, they get several queries. A query has a relevant record.
  """
  rng = np.random.default_rng(seed)
  size = len(modalities)
  records = [modality_records(embedding_set, name) for name in modalities]
  pairs = [
    (i, (i + step) % size) for step in range(1, size) for i in range(size)
  ]
  repeats = max(1, MIN_ROWS // max(1, len(pairs)))
  examples = []
  for i, j in sorted(pairs[:MAX_ROWS]):
    relevant_to = relevance(records[i], records[j], level=level)
    rows = rng.permutation(len(records[i].vectors))
    valid = [row for row in rows if relevant_to(row).any()]
    examples += [
      _example(modalities, records, (i, j), row, relevant_to(row))
      for row in valid[:repeats]
    ]
  return examples


def _example(
  modalities: Sequence[str],
  records: Sequence[Records],
  pair: tuple[int, int],
  row: int,
  relevant: np.ndarray,
) -> Example:
  """The nearest records of one query."""
  asking, answering = records[pair[0]], records[pair[1]]
  cosines = answering.vectors @ asking.vectors[row]
  best = np.argsort(-cosines, kind="stable")[:NUM_RESULTS]
  return Example(
    modalities[pair[0]],
    modalities[pair[1]],
    int(asking.items[row, 0]),
    answering.items[best, 0],
    cosines[best],
    relevant[best],
    None if asking.labels is None else int(asking.labels[row]),
    None if answering.labels is None else answering.labels[best],
  )


@style.styled
def retrieved_figure(
  examples: Sequence[Example],
  displays: Mapping[str, Display],
  class_names: Sequence[str] | None = None,
) -> Figure:
  """A row per query: the query, then its nearest records.

  Args:
    examples: what `retrieve_examples` returned, at least one.
    displays: how to draw each modality's records.
    class_names: names of the labels; None: the labels themselves.

  Returns:
    The figure: relevant results are framed green and ticked, others framed
    red, dashed and crossed.
  """
  height = 1.22 * len(examples) + 0.15
  figure = style.new_figure(style.FULL_WIDTH, height)
  grid = figure.add_gridspec(
    len(examples), NUM_RESULTS + 2, width_ratios=[1, 0.08, *[1] * NUM_RESULTS]
  )
  for row, example in enumerate(examples):
    axes = figure.add_subplot(grid[row, 0])
    _draw(axes, displays[example.query], example.query_item)
    _frame(axes, style.INK, "-")
    axes.set_ylabel(
      f"{style.cut(example.query, 14)}\n→ {style.cut(example.gallery, 14)}",
      rotation=0,
      ha="right",
    )
    axes.yaxis.set_label_coords(-0.12, 0.4)
    if example.query_label is not None:
      axes.set_xlabel(_class(example.query_label, class_names))
    if row == 0:
      axes.set_title("query", loc="center")
    for rank, item in enumerate(example.items):
      axes = figure.add_subplot(grid[row, rank + 2])
      _draw(axes, displays[example.gallery], int(item))
      correct = bool(example.relevant[rank])
      colour = style.RIGHT if correct else style.WRONG
      _frame(axes, colour, "-" if correct else (0, (4, 2)))
      label = ""
      if example.labels is not None:
        label = _class(example.labels[rank], class_names) + "  "
      axes.set_xlabel(
        f"{'✓' if correct else '✗'} {label}{example.cosines[rank]:.2f}",
        color=colour,
      )
      if row == 0:
        axes.set_title(_RANKS[rank], loc="center")
  return figure


def log_spectrogram(
  waveform: np.ndarray, sample_rate: int
) -> tuple[np.ndarray, float]:
  """Log power of windows of 25 ms, every 5 ms.

  Args:
    waveform: `[time]`; zeros at its end count as padding.
    sample_rate: Hz.

  Returns:
    `[frequency, frame]` in dB relative to the loudest, at least -60, and the
    duration in seconds.

  Raises:
    ValueError: if the waveform has another number of axes.
  """
  waveform = np.asarray(waveform, np.float64)
  if waveform.ndim != 1:
    raise ValueError(
      f"a waveform must be [time], got shape {waveform.shape}; mix channels "
      "down first."
    )
  waveform = np.trim_zeros(waveform, "b")
  duration = len(waveform) / sample_rate
  size, hop = max(2, sample_rate // 40), max(1, sample_rate // 200)
  padded = np.pad(waveform, (size // 2, max(size - size // 2, size)))
  frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
  # Zero-padding the transform interpolates between frequencies.
  power = np.abs(np.fft.rfft(frames * np.hanning(size), 2 * size)) ** 2
  peak = power.max()
  level = 10 * np.log10(np.maximum(power / (peak if peak > 0 else 1), 1e-12))
  return np.maximum(level, -_DECIBELS).T, duration


def _draw(axes: Axes, display: Display, item: int) -> None:
  """Draws one record, without ticks."""
  axes.set_xticks([])
  axes.set_yticks([])
  axes.grid(False)
  _DRAWERS[display.kind](axes, display, display.values[item])


def _draw_image(axes: Axes, display: Display, value: Any) -> None:
  image = np.squeeze(np.asarray(value))
  if image.dtype != np.uint8 or image.ndim == 2:
    image = image.astype(np.float64)
    low, high = np.nanmin(image), np.nanmax(image)
    image = (image - low) / (high - low if high > low else 1)
  axes.imshow(image, cmap="gray", interpolation="nearest")


def _draw_waveform(axes: Axes, display: Display, value: Any) -> None:
  rate = display.sample_rate
  if rate is None:
    raise ValueError(
      "a waveform display needs its sample_rate in Hz, got None."
    )
  levels, duration = log_spectrogram(value, rate)
  axes.imshow(
    levels,
    origin="lower",
    aspect="auto",
    cmap="magma",
    vmin=-_DECIBELS,
    vmax=0,
  )
  axes.text(
    0.96,
    0.95,
    f"{duration:.2f} s",
    transform=axes.transAxes,
    color="white",
    fontsize=6,
    ha="right",
    va="top",
  )
  axes.set_box_aspect(1)


def _draw_text(axes: Axes, display: Display, value: Any) -> None:
  text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
  lines = textwrap.wrap(str(text), 16, max_lines=6, placeholder=" …") or [""]
  size = 9 if len(lines) == 1 and len(lines[0]) < 11 else 6.5
  axes.text(
    0.5,
    0.5,
    "\n".join(lines),
    transform=axes.transAxes,
    fontsize=size,
    ha="center",
    va="center",
  )
  axes.set_box_aspect(1)


def _draw_trajectory(axes: Axes, display: Display, value: Any) -> None:
  points = np.asarray(value, np.float64)
  axes.plot(*points[:, :2].T, color=style.INK, lw=1.3)
  axes.plot(*points[0, :2], "o", color=style.LINES[0], ms=3.5)
  axes.set_aspect("equal", adjustable="datalim")
  axes.margins(0.15)
  axes.set_box_aspect(1)


def _draw_vector(axes: Axes, display: Display, value: Any) -> None:
  vector = np.ravel(np.asarray(value, np.float64))
  axes.fill_between(
    np.arange(vector.size), vector, step="mid", color=style.GREY, lw=0.4
  )
  axes.margins(0.03)
  axes.set_box_aspect(1)


_DRAWERS: dict[str, Callable[[Axes, Display, Any], None]] = {
  "image": _draw_image,
  "waveform": _draw_waveform,
  "text": _draw_text,
  "trajectory": _draw_trajectory,
  "vector": _draw_vector,
}
KINDS = tuple(_DRAWERS)


def _frame(axes: Axes, colour: str, line: Any) -> None:
  """Frames a panel."""
  for spine in axes.spines.values():
    spine.set(visible=True, color=colour, linewidth=1.6, linestyle=line)


def _class(label: int, class_names: Sequence[str] | None) -> str:
  """A class's name, as long as a panel is wide."""
  return style.cut(style.class_name(label, class_names), 12)
