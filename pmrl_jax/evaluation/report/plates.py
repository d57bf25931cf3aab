"""The figures of a report, each with its words."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from pmrl_jax.evaluation.embedding_set import REST, EmbeddingSet
from pmrl_jax.evaluation.report.curves import spectrum_curves, training_curves
from pmrl_jax.evaluation.report.matrix import retrieval_matrix
from pmrl_jax.evaluation.report.projection import joint_space, project
from pmrl_jax.evaluation.report.retrieved import (
  Display,
  retrieve_examples,
  retrieved_figure,
)


class Plate(NamedTuple):
  """A figure with its words."""

  name: str  # of the file, without ".png"
  heading: str
  figure: Figure
  alt: str
  caption: str


def draw_plates(
  summary: Mapping[str, Any],
  history: Sequence[Mapping[str, Any]],
  test_set: EmbeddingSet,
  displays: Mapping[str, Display],
  level: str,
  class_names: Sequence[str] | None,
) -> list[Plate]:
  """Draws all figures that have something to show.

  Args:
    summary: what `evaluate` returned.
    history: rows with "step", "kind" and measures.
    test_set: embeddings of held-out instances.
    displays: how to draw the records of a modality.
    level: "class" or "instance".
    class_names: names of the labels; None: the labels themselves.

  Returns:
    The figures in the order of the report: results first, then how they came
    about.
  """
  return [
    *_retrieval_plate(summary, test_set, level),
    *_examples_plate(test_set, displays, level, class_names),
    *_space_plate(test_set, class_names),
    *_history_plates(history, summary),
  ]


def _history_plates(
  history: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]
) -> list[Plate]:
  """Training curves and spectrum."""
  plates = []
  curves = training_curves(history)
  if curves is not None:
    plates.append(
      Plate(
        "training",
        "Training",
        curves,
        "Line plots over the training steps: loss and its terms, held-out "
        "retrieval, gradient norm and learning rate, where recorded.",
        "Loss and its terms; mean R@1 over the ordered pairs of modalities "
        "and flipped share of true pairs, on held-out instances; gradient "
        "norm and learning rate. Long series are drawn faintly under their "
        "running mean.",
      )
    )
  spectrum = spectrum_curves(history, summary.get("spectrum") or [])
  if spectrum is not None:
    plates.append(
      Plate(
        "spectrum",
        "Singular spectrum",
        spectrum,
        "Plot of the mean singular values of held-out instances, with guides "
        "at full alignment and at orthogonal modalities.",
        "Mean singular values of the stacked unit embeddings of a held-out "
        "instance. With n modalities σ₁ = √n means that all agree up to sign, "
        "and 1 throughout that none does.",
      )
    )
  return plates


def _retrieval_plate(
  summary: Mapping[str, Any], test_set: EmbeddingSet, level: str
) -> list[Plate]:
  """The matrix of R@1."""
  if not summary.get("retrieval"):
    return []
  relevant = "the same class" if level == "class" else "the same instance"
  return [
    Plate(
      "retrieval",
      "Retrieval",
      retrieval_matrix(summary["retrieval"], test_set.modalities),
      "Heat map of R@1 with a row per query modality and a column per gallery; "
      "the table of retrieval scores holds the same numbers.",
      f"R@1 on held-out records; relevant is an item of {relevant}. “{REST}” "
      "is the leading direction of all other modalities together.",
    )
  ]


def _space_plate(
  test_set: EmbeddingSet, class_names: Sequence[str] | None
) -> list[Plate]:
  """The projection of the joint space."""
  if not test_set.where.any():
    return []
  projection = project(test_set)
  labelled = projection.labels is not None
  return [
    Plate(
      "joint_space",
      "Joint space",
      joint_space(projection, test_set.modalities, class_names),
      f"Scatter plot: {projection.method} projection of held-out embeddings of "
      "all modalities.",
      f"{projection.method} of {len(projection.points)} held-out records of "
      "all modalities in one plane; marks are modalities, colours "
      f"{'classes' if labelled else 'too'}. Records are a random sample where "
      "there are more.",
    )
  ]


def _examples_plate(
  test_set: EmbeddingSet,
  displays: Mapping[str, Display],
  level: str,
  class_names: Sequence[str] | None,
) -> list[Plate]:
  """Queries and what they retrieved."""
  drawn = [name for name in test_set.modalities if name in displays]
  examples = retrieve_examples(test_set, drawn, level=level)
  if not examples:
    return []
  relevant = "of the query's class" if level == "class" else "its counterpart"
  results = "; ".join(
    f"{example.query} to {example.gallery}: "
    f"{int(example.relevant.sum())} of {len(example.relevant)} relevant"
    for example in examples
  )
  waves = any(displays[name].kind == "waveform" for name in drawn)
  return [
    Plate(
      "retrieved",
      "What was retrieved",
      retrieved_figure(examples, displays, class_names),
      f"Queries and their nearest records. {results}.",
      "Held-out queries, drawn at random and not chosen, with their nearest "
      f"records of another modality and the cosine. ✓ and a solid frame: "
      f"{relevant}; ✗ and a dashed frame: not."
      + (
        " Sound is drawn as its spectrogram: time to the right, frequency "
        "upwards from 0 Hz to half the sample rate, 60 dB from dark to bright."
        if waves
        else ""
      ),
    )
  ]
