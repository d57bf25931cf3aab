"""The report of a run: one HTML file that opens offline, and its figures."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pmrl_jax.evaluation.embedding_set import (
  REST,
  EmbeddingSet,
  check_embedding_set,
)
from pmrl_jax.evaluation.report import page, style
from pmrl_jax.evaluation.report.plates import Plate, draw_plates
from pmrl_jax.evaluation.report.retrieved import KINDS, Display

# CSS pixels per inch of a figure: a page's width fits the column of the text.
_PIXELS_PER_INCH = 125


def write_report(
  folder: str | os.PathLike[str],
  *,
  title: str,
  summary: Mapping[str, Any],
  history: Sequence[Mapping[str, Any]],
  test_set: EmbeddingSet,
  displays: Mapping[str, Display],
  level: str,
  class_names: Sequence[str] | None = None,
  facts: Mapping[str, str],
) -> Path:
  """Writes `report.html` and the figures in it as PNG files.

  All is drawn before anything is written, so a mistake leaves an earlier
  report as it was. A figure that has nothing to show is left out.

  Args:
    folder: where to; made if it does not exist.
    title: heading of the page.
    summary: what `evaluate` returned.
    history: rows with "step", "kind" ("train" or "eval") and measures.
    test_set: embeddings of held-out instances; those that are not finite are
      treated as absent.
    displays: how to draw the records of a modality, by its name; modalities
      without a display are left out of the retrieval examples.
    level: "class" or "instance": what is relevant.
    class_names: names of the labels; None: the labels themselves.
    facts: what the header says of the run: versions, seconds, parameters.

  Returns:
    The path of `report.html`.

  Raises:
    ValueError: if the set is malformed, does not fit the level, or a display
      does not fit the set.
  """
  # A run that diverged deserves a report of how it went until then.
  finite = np.isfinite(test_set.embeddings)
  check_embedding_set(
    test_set._replace(embeddings=np.where(finite, test_set.embeddings, 0)),
    level,
  )
  test_set = test_set._replace(where=test_set.where & finite.all(axis=-1))
  _check_displays(displays, test_set)
  plates = draw_plates(summary, history, test_set, displays, level, class_names)
  images = {plate.name: style.png_bytes(plate.figure) for plate in plates}
  document = page.page(
    title,
    _lead(summary, test_set, level),
    [
      page.tiles(_headline(summary)),
      page.section("Run", page.facts_table(facts.items())),
      *_plate_sections(plates, images),
      *_tables(summary),
      page.section("How to read this", *map(page.note, _READING)),
    ],
  )
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for name, png in images.items():
    (folder / f"{name}.png").write_bytes(png)
  path = folder / "report.html"
  path.write_text(document, encoding="utf-8")
  return path


_READING = (
  "Similarity is the cosine. R@k is the share of queries with a relevant item "
  "among the first k, the median rank that of the first relevant item, mAP the "
  "mean over queries of the precision at every relevant item. Items that tie "
  "with a relevant one count as ranked before it. A record that serves in "
  "several instances counts once. Chance is the expected R@1 of a random "
  "order.",
  f"“{REST}” is the leading direction of all other modalities of an instance: "
  "their normalised sum.",
  "The flipped share counts the true pairs whose cosine is negative. Singular "
  "values cannot see this: they stay the same when an embedding changes its "
  "sign.",
  "The between cosine is the mean cosine of the leading directions of "
  "different classes (instances): near 0 in a spread-out space, near 1 in a "
  "collapsed one.",
)


def _plate_sections(
  plates: Sequence[Plate], images: Mapping[str, bytes]
) -> list[str]:
  """HTML of the figures."""
  return [
    page.section(
      plate.heading,
      page.figure(
        images[plate.name],
        round(plate.figure.get_figwidth() * _PIXELS_PER_INCH),
        plate.alt,
        plate.caption,
      ),
    )
    for plate in plates
  ]


def _tables(summary: Mapping[str, Any]) -> list[str]:
  """HTML of the numbers."""
  sections = []
  retrieval = summary.get("retrieval")
  if retrieval:
    columns = {
      **{key: key for scores in retrieval.values() for key in scores},
      "median_rank": "median rank",
      "chance_R@1": "chance R@1",
      "num_queries": "queries",
      "num_unmatched": "without match",
      "num_gallery": "gallery",
    }
    rows = [
      (
        name.replace("->", " → "),
        *(_cell(key, scores.get(key)) for key in columns),
      )
      for name, scores in retrieval.items()
    ]
    sections.append(
      page.section(
        "Retrieval scores",
        page.table(
          "Held-out retrieval, query → gallery.",
          ["direction", *columns.values()],
          rows,
        ),
      )
    )
  if summary.get("reranked"):
    sections.append(_reranked_section(summary["reranked"]))
  cosines = summary.get("cosines")
  if cosines:
    flipped = summary.get("flipped_shares", {})
    rows = [(name, value, flipped.get(name)) for name, value in cosines.items()]
    sections.append(
      page.section(
        "True pairs",
        page.table(
          "Cosines between the modalities of an instance.",
          ["pair", "mean cosine", "flipped share"],
          rows,
        ),
      )
    )
  probes = summary.get("probe")
  if probes:
    rows = [
      (name.replace("_", " "), scores.get("knn"), scores.get("linear"))
      for name, scores in probes.items()
    ]
    sections.append(
      page.section(
        "Classification of frozen embeddings",
        page.table(
          "Accuracy on held-out records.",
          ["embeddings", "k-NN", "linear probe"],
          rows,
        ),
      )
    )
  return sections


def _reranked_section(reranked: Mapping[str, Mapping[str, float]]) -> str:
  """HTML of the numbers of a slower judge."""
  columns = {
    **{f"R@{k}": f"R@{k}" for k in (1, 5, 10)},
    "median_rank": "median rank",
    **{f"similarity_R@{k}": f"before: R@{k}" for k in (1, 5, 10)},
    "num_candidates": "candidates",
    "num_queries": "queries",
    "num_gallery": "gallery",
    "coverage": "coverage",
  }
  rows = [
    (
      name.replace("->", " → "),
      *(_cell(key, scores.get(key)) for key in columns),
    )
    for name, scores in reranked.items()
  ]
  return page.section(
    "Re-ranked retrieval",
    page.table(
      "Held-out retrieval, query → gallery: the candidates that joint features "
      "choose, in the order of the matching head.",
      ["direction", *columns.values()],
      rows,
    ),
  )


def _cell(key: str, value: Any) -> Any:
  """A rank that is whole as a whole number; other scores as they are."""
  whole = key == "median_rank" and value is not None and value % 1 == 0
  return int(value) if whole else value


def _headline(summary: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
  """The numbers on top of the page."""
  chances = [
    scores["chance_R@1"]
    for name, scores in summary.get("retrieval", {}).items()
    if "chance_R@1" in scores and not name.endswith(f"->{REST}")
  ]
  chance = f"chance {np.mean(chances):.3f}" if chances else ""
  entries = [
    ("mean R@1", "mean_R@1", chance),
    ("mean mAP", "mean_mAP", "over pairs of modalities"),
    ("mean R@1 to rest", "rest_R@1", "all others together"),
    ("re-ranked R@1", "reranked_R@1", "by text, of the matching head"),
    ("flipped share", "flipped_share", "pairs with cosine < 0"),
    ("between cosine", "between_cosine", "1 is collapse"),
  ]
  if summary.get("coverage", 1.0) < 1:
    entries.append(("coverage", "coverage", "of the galleries, the lowest"))
  return [
    (name, summary[key], remark)
    for name, key, remark in entries
    if key in summary
  ]


def _lead(
  summary: Mapping[str, Any], test_set: EmbeddingSet, level: str
) -> str:
  """One sentence on what was evaluated."""
  names = ", ".join(test_set.modalities)
  absent = float(1 - test_set.where.mean()) if test_set.where.size else 0.0
  missing = f"; {absent:.1%} of the embeddings are absent" if absent else ""
  return (
    f"{len(test_set.embeddings):,} held-out instances of "
    f"{len(test_set.modalities)} modalities ({names}), retrieval at {level} "
    f"level{missing}."
  )


def _check_displays(
  displays: Mapping[str, Display], test_set: EmbeddingSet
) -> None:
  """Raises unless each display can draw the items of its modality."""
  for name, display in displays.items():
    if name not in test_set.modalities:
      raise ValueError(
        f"displays name {name!r}, which is not one of the modalities "
        f"{test_set.modalities}."
      )
    if display.kind not in KINDS:
      raise ValueError(
        f"the display of {name!r} has kind {display.kind!r}; known kinds are "
        f"{KINDS}."
      )
    column = test_set.modalities.index(name)
    used = test_set.items[test_set.where[:, column], column]
    if used.size and not 0 <= used.min() <= used.max() < len(display.values):
      raise ValueError(
        f"the display of {name!r} holds {len(display.values)} values, but the "
        f"item ids run from {used.min()} to {used.max()}; item ids index "
        "`values`."
      )
