"""All measures of one evaluation, as plain numbers and as a console table."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pmrl_jax.evaluation.classification import probe
from pmrl_jax.evaluation.diagnostics import (
  between_cosine,
  flipped_share,
  mean_spectrum,
  pair_cosines,
)
from pmrl_jax.evaluation.embedding_set import REST, EmbeddingSet
from pmrl_jax.evaluation.retrieval import cross_modal_retrieval

# The numbers of a summary by which checkpoints can be ranked.
SCALARS = (
  "mean_R@1",
  "mean_mAP",
  "rest_R@1",
  "flipped_share",
  "between_cosine",
)
# Where there is re-ranking, too: the mean R@1 of items that texts ask for.
RERANKED = "reranked_R@1"
_WIDTH = 80


def evaluate(
  test_set: EmbeddingSet,
  *,
  train_set: EmbeddingSet | None = None,
  level: str,
) -> dict[str, Any]:
  """Measures retrieval, alignment and, given a train split, classification.

  Args:
    test_set: embeddings of held-out instances.
    train_set: embeddings to fit the probes on, with labels; or None for no
      probes.
    level: "class" (relevant: same label) or "instance".

  Returns:
    A dictionary that `json.dumps` takes:
    "level", "modalities", "num_instances";
    "retrieval", as `cross_modal_retrieval`;
    "mean_R@1" and "mean_mAP" over the ordered pairs of modalities, and
    "rest_R@1" over the directions to "rest"; "coverage", the lowest of all
    directions: with less than 1, the others are of a smaller, easier gallery;
    "flipped_share"; "flipped_shares" and "cosines" by pair
    ("image & speech"); "spectrum", as `mean_spectrum` ([] if no instance is
    complete); "between_cosine"; and "probe" if `train_set` is given.

  Raises:
    ValueError: if a set is malformed or does not fit the level.
  """
  retrieval = cross_modal_retrieval(test_set, level=level)
  pairs = [scores for name, scores in retrieval.items() if not _is_rest(name)]
  rest = [scores for name, scores in retrieval.items() if _is_rest(name)]
  cosines = pair_cosines(test_set)
  spectrum = mean_spectrum(test_set)
  summary: dict[str, Any] = {
    "level": level,
    "modalities": list(test_set.modalities),
    "num_instances": len(test_set.embeddings),
    "retrieval": retrieval,
    "mean_R@1": float(np.mean([scores["R@1"] for scores in pairs])),
    "mean_mAP": float(np.mean([scores["mAP"] for scores in pairs])),
    "rest_R@1": float(np.mean([scores["R@1"] for scores in rest])),
    "coverage": min(scores["coverage"] for scores in retrieval.values()),
    "flipped_share": flipped_share(test_set),
    "flipped_shares": {
      " & ".join(pair): value.flipped_share for pair, value in cosines.items()
    },
    "cosines": {
      " & ".join(pair): value.mean for pair, value in cosines.items()
    },
    "spectrum": [] if spectrum is None else spectrum.tolist(),
    "between_cosine": between_cosine(test_set, level=level),
  }
  if train_set is not None:
    summary["probe"] = probe(train_set, test_set)
  return summary


def reranked_summary(
  scores: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
  """What a summary has of retrieval by a slower judge.

  Args:
    scores: "R@k" and more by direction, first all whose queries are texts:
      `{"text->va": {...}, "va->text": {...}}`; "similarity_R@k" is what it
      was before.

  Returns:
    "reranked", the scores, and "reranked_R@1", the mean R@1 of the directions
    that ask by the first one's texts.

  >>> from pmrl_jax.evaluation import reranked_summary
  >>> scores = {"text->va": {"R@1": 0.5}, "va->text": {"R@1": 0.7}}
  >>> reranked_summary(scores)["reranked_R@1"]
  0.5
  """
  caption = next(iter(scores)).split("->")[0]
  forward = [
    each["R@1"]
    for name, each in scores.items()
    if name.startswith(f"{caption}->")
  ]
  return {
    "reranked": {name: dict(each) for name, each in scores.items()},
    RERANKED: float(np.mean(forward)),
  }


def summary_table(summary: Mapping[str, Any]) -> str:
  """A table for the console, at most 80 columns wide.

  Args:
    summary: what `evaluate` returned.

  Returns:
    Lines: headline numbers, R@1 by query (row) and gallery (column), what
    re-ranking made of it, probes.
  """
  retrieval = summary["retrieval"]
  names = list(dict.fromkeys(key.split("->")[0] for key in retrieval))
  columns = [*names, REST]
  rows = {
    query: [
      retrieval.get(f"{query}->{other}", {}).get("R@1") for other in columns
    ]
    for query in names
  }
  headline = "   ".join(
    f"{title} {_number(summary.get(key))}"
    for title, key in (
      ("mean R@1", "mean_R@1"),
      ("mean mAP", "mean_mAP"),
      ("flipped share", "flipped_share"),
    )
  )
  coverage = summary.get("coverage", 1.0)
  if coverage < 1:
    # Rounded down: one item of many that is missing shows.
    headline += f"   coverage {_number(math.floor(coverage * 1000) / 1000)}"
  lines = [headline, "", *_table("R@1: query to", columns, rows)]
  reranked = summary.get("reranked")
  if reranked:
    columns = ["R@1", "R@5", "R@10", "before: R@1"]
    keys = ["R@1", "R@5", "R@10", "similarity_R@1"]
    rows = {
      name: [scores.get(key) for key in keys]
      for name, scores in reranked.items()
    }
    lines += ["", *_table("re-ranked", columns, rows)]
  probes = summary.get("probe")
  if probes:
    kinds = ["knn", "linear"]
    accuracies = {
      name: [scores.get(kind) for kind in kinds]
      for name, scores in probes.items()
    }
    lines += ["", *_table("accuracy of", kinds, accuracies)]
  return "\n".join(lines)


def _table(
  title: str, columns: list[str], rows: Mapping[str, list[float | None]]
) -> list[str]:
  """Formats numbers under column titles, in blocks that fit the width."""
  first = min(max(map(len, (title, *rows))), 20)
  # All columns side by side if five letters of their titles suffice.
  room = _WIDTH - first
  width = max(7, min(max(map(len, columns)) + 2, room // len(columns)))
  per_block = room // width
  lines: list[str] = []
  for start in range(0, len(columns), per_block):
    block = range(start, min(start + per_block, len(columns)))
    header = (_cut(columns[i], width - 2) for i in block)
    lines.append(
      _cut(title, first).ljust(first)
      + "".join(name.rjust(width) for name in header)
    )
    for name, values in rows.items():
      cells = "".join(_number(values[i]).rjust(width) for i in block)
      lines.append(_cut(name, first).ljust(first) + cells)
  return lines


def _cut(text: str, width: int) -> str:
  """Shortens text to a width, with an ellipsis."""
  return text if len(text) <= width else text[: width - 1] + "…"


def _number(value: float | None) -> str:
  """Three decimals, or a dash for what is missing or not finite."""
  if value is None or not np.isfinite(value):
    return "–"
  return f"{value:.3f}"


def _is_rest(direction: str) -> bool:
  """Whether a direction's gallery is "rest"."""
  return direction.endswith(f"->{REST}")
