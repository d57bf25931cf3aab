"""The joint space in two dimensions: t-SNE, or PCA where t-SNE cannot be."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from pmrl_jax.evaluation.embedding_set import EmbeddingSet, modality_records
from pmrl_jax.evaluation.report import style

# The tree-code t-SNE of this many points takes some seconds.
MAX_POINTS = 1500
MAX_PER_MODALITY = 600
MIN_POINTS_FOR_TSNE = 30


class Projection(NamedTuple):
  """Points of the plane, one per distinct record."""

  points: np.ndarray  # [point, 2] float64
  modality: np.ndarray  # [point] int, index into the set's modalities
  labels: np.ndarray | None  # [point] int
  method: str  # "t-SNE" or "PCA"


def project(embedding_set: EmbeddingSet, *, seed: int = 0) -> Projection:
  """Lays distinct records of all modalities out in one plane.

  Args:
    embedding_set: embeddings of one split.
    seed: for the sample of records and for t-SNE.

  Returns:
    At most 600 records per modality and 1,500 in all, drawn at random.

  Raises:
    ValueError: if one record carries two different labels.
  """
  rng = np.random.default_rng(seed)
  names = embedding_set.modalities
  limit = min(MAX_PER_MODALITY, max(1, MAX_POINTS // len(names)))
  vectors, modality, labels = [], [], []
  for index, name in enumerate(names):
    records = modality_records(embedding_set, name)
    count = len(records.vectors)
    rows = np.sort(rng.permutation(count)[:limit])
    vectors.append(records.vectors[rows])
    modality.append(np.full(len(rows), index))
    if records.labels is not None:
      labels.append(records.labels[rows])
  points, method = _plane(np.concatenate(vectors), seed)
  return Projection(
    points,
    np.concatenate(modality),
    np.concatenate(labels) if labels else None,
    method,
  )


@style.styled
def joint_space(
  projection: Projection,
  modalities: Sequence[str],
  class_names: Sequence[str] | None = None,
) -> Figure:
  """The records of all modalities in one plane.

  Args:
    projection: what `project` returned.
    modalities: names, one mark each.
    class_names: names of the labels; None: the labels themselves.

  Returns:
    The figure: modalities as marks; classes (or, without labels,
    modalities) as colours.
  """
  figure = style.new_figure(5.6, 4.3)
  axes = figure.add_subplot()
  groups, names, colours = _colouring(projection, modalities, class_names)
  marks = [style.MARKS[i % len(style.MARKS)] for i in range(len(modalities))]
  # In small mixed portions, so that no modality hides the ones before it.
  order = np.random.default_rng(0).permutation(len(projection.points))
  portions = np.array_split(order, max(1, len(order) // 25))
  for portion, (i, mark) in itertools.product(portions, enumerate(marks)):
    rows = portion[projection.modality[portion] == i]
    axes.scatter(
      projection.points[rows, 0],
      projection.points[rows, 1],
      s=13,
      marker=mark,
      c=[colours[group] for group in groups[rows]],
      alpha=0.8,
      edgecolors="white",
      linewidths=0.3,
    )
  axes.set(xlabel=f"{projection.method} 1", ylabel=f"{projection.method} 2")
  axes.set_xticks([])
  axes.set_yticks([])
  axes.spines[:].set_visible(True)
  axes.spines[:].set_color("#CCCCCC")
  unlabelled = projection.labels is None
  handles = [
    Line2D(
      [],
      [],
      ls="",
      marker=mark,
      color=colours[i] if unlabelled else style.INK,
      ms=5,
      label=style.cut(name, 16),
    )
    for i, (mark, name) in enumerate(zip(marks, modalities))
  ]
  legend = figure.legend(
    handles=handles, loc="outside right upper", title="modality"
  )
  legend.set_alignment("left")
  if not unlabelled:
    patches = [
      Line2D(
        [],
        [],
        ls="",
        marker="o",
        color=colour,
        ms=5.5,
        label=style.cut(name, 16),
      )
      for colour, name in zip(colours, names)
    ]
    legend = figure.legend(
      handles=patches, loc="outside right lower", title="class"
    )
    legend.set_alignment("left")
  return figure


def _colouring(
  projection: Projection,
  modalities: Sequence[str],
  class_names: Sequence[str] | None,
) -> tuple[np.ndarray, list[str], list[str]]:
  """The colour group of every point, the groups' names and colours."""
  if projection.labels is None:
    colours = [
      style.LINES[i % len(style.LINES)] for i in range(len(modalities))
    ]
    return projection.modality, list(modalities), colours
  labels, groups, sizes = np.unique(
    projection.labels, return_inverse=True, return_counts=True
  )
  names = [style.class_name(label, class_names) for label in labels]
  if len(labels) <= len(style.CLASSES):
    return groups, names, list(style.CLASSES[: len(labels)])
  # The most frequent classes get the nine hues, all others share the grey.
  shown = np.sort(np.argsort(-sizes, kind="stable")[: len(style.CLASSES) - 1])
  place = np.full(len(labels), len(shown))
  place[shown] = np.arange(len(shown))
  others = f"{len(labels) - len(shown)} others"
  return (
    place[groups],
    [names[i] for i in shown] + [others],
    list(style.CLASSES),
  )


# Threads wait for one another at each of a thousand short steps: on a busy
# machine two are twenty times slower than one.
@threadpool_limits.wrap(limits=1)
def _plane(vectors: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
  """Two coordinates per row, and the name of the method."""
  # t-SNE divides by the spread of the data, which a collapsed space lacks.
  spread = vectors.std(axis=0).max(initial=0.0) if len(vectors) else 0.0
  if len(vectors) >= MIN_POINTS_FOR_TSNE and spread > 1e-6:
    model = TSNE(
      perplexity=min(30, (len(vectors) - 1) / 3),
      init="pca" if vectors.shape[1] > 1 else "random",
      random_state=seed,
    )
    return model.fit_transform(vectors.astype(np.float32)), "t-SNE"
  centred = vectors - vectors.mean(axis=0) if len(vectors) else vectors
  _, _, axes = np.linalg.svd(centred, full_matrices=False)
  points = np.zeros((len(vectors), 2))
  kept = centred @ axes[:2].T
  points[:, : kept.shape[1]] = kept
  return points, "PCA"
