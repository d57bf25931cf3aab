"""Retrieval by the matching head: text and candidate, looked at together."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from experiments.embedding import Embedded
from experiments.judging import build_judge, judge_pairs
from pmrl_jax import encoders
from pmrl_jax.data import Source, View, evaluation_batches
from pmrl_jax.evaluation import refine_scores, score_metrics

Scores = dict[str, dict[str, float]]
# `(params, source, embedded, allow_missing=...) -> scores by direction`.
Reranker = Callable[..., Scores]


class _Gallery(NamedTuple):
  """Who asks, and what there is to find."""

  texts: np.ndarray  # [query] instances whose caption asks
  items: np.ndarray  # [item] instances with different conditions
  text_ids: np.ndarray  # [query], what is relevant
  item_ids: np.ndarray  # [item]
  coverage: float  # share of the items that are there


def build_reranker(
  model: encoders.PMRLModel,
  mesh: Mesh,
  *,
  tasks: Sequence[Any],
  num_candidates: int,
  batch_size: int,
  level: str,
  missing: bool,
) -> Reranker:
  """Makes the function that measures retrieval as published.

  Every text gets the items whose joint feature is most like it, and every item
  such texts; the matching head then puts these in order.

  Args:
    model: The model.
    mesh: The devices.
    tasks: As "tva": captions, and the modalities that are to be found.
    num_candidates: How many the head looks at. Published: 50.
    batch_size: Items that are encoded, and pairs that are judged, at a time.
    level: "class" or "instance", as in `evaluation.evaluate`.
    missing: Whether what cannot be read is absent, and no error.

  Returns:
    `(params, source, embedded, allow_missing=missing) -> {"text->va": scores,
    "va->text": scores}`: "R@k", "median_rank" and "num_queries" by the head,
    "similarity_R@k" by the joint features alone, "num_gallery",
    "num_candidates" and "coverage", the share of the items that are there.

  Raises:
    ValueError: If a task names no captions or nothing else.
  """
  judge = build_judge(model, mesh)
  conditions = {_label(model, task): _condition(model, task) for task in tasks}

  def rerank(
    params: Any,
    source: Source,
    embedded: Embedded,
    *,
    allow_missing: bool = missing,
  ) -> Scores:
    results: Scores = {}
    for label, names in conditions.items():
      gallery = _gallery(model, source, embedded, names, level)
      caption, joint = (
        np.asarray(judge.features(params, _encoded(embedded, rows), each))
        for rows, each in (
          (gallery.texts, (model.caption,)),
          (gallery.items, names),
        )
      )
      scores = caption @ joint.T
      chosen = {
        side: _candidates(scores, side, num_candidates)
        for side in ("text", "item")
      }
      column = source.modalities.index(model.caption)
      batches = evaluation_batches(
        View(source, gallery.items, names),
        batch_size=batch_size,
        allow_failures=allow_missing,
      )
      judged = judge_pairs(
        judge,
        params,
        mesh,
        texts=source.inputs(
          model.caption, source.pairing(0)[gallery.texts, column]
        ),
        batches=batches,
        wanted=chosen["text"] | chosen["item"],
        batch_size=batch_size,
      )
      results |= _measured(
        model.caption, label, gallery, scores, judged, chosen, num_candidates
      )
    return results

  return rerank


def _condition(model: encoders.PMRLModel, task: Any) -> tuple[str, ...]:
  names = model.task(task)
  others = tuple(name for name in names if name != model.caption)
  if model.caption not in names or not others:
    raise ValueError(
      f"config.evaluation.tasks: a task must name the captions, "
      f"{model.caption!r}, and what is to be found with them, got {task!r}"
    )
  return others


def _label(model: encoders.PMRLModel, task: Any) -> str:
  """A short name of what is to be found: "va", or "video+audio"."""
  others, letters = _condition(model, task), [n[0] for n in model.modalities]
  if len(set(letters)) == len(letters):
    return "".join(name[0] for name in others)
  return "+".join(others)


def _encoded(embedded: Embedded, rows: np.ndarray) -> encoders.Encoded:
  """Some instances, without their conditions."""
  return encoders.Encoded(
    embeddings=embedded.embedding_set.embeddings[rows],
    where=embedded.embedding_set.where[rows],
    pooled={name: array[rows] for name, array in embedded.pooled.items()},
    conditions={},
  )


def _gallery(
  model: encoders.PMRLModel,
  source: Source,
  embedded: Embedded,
  names: Sequence[str],
  level: str,
) -> _Gallery:
  """The instances whose captions ask, and those with different conditions."""
  columns = [source.modalities.index(name) for name in names]
  where, items = embedded.embedding_set.where, source.pairing(0)[:, columns]
  # Of instances with the same condition the first one stands for all.
  _, first, which = np.unique(
    items, axis=0, return_index=True, return_inverse=True
  )
  first, which = np.sort(first), np.argsort(np.argsort(first))[which.ravel()]
  is_there = np.asarray(where[first][:, columns].any(axis=1))
  asks = where[:, source.modalities.index(model.caption)] & is_there[which]
  if not asks.any():
    raise ValueError(
      f"no held-out instance has both {model.caption!r} and any of "
      f"{list(names)}; choose other config.evaluation.tasks, or set "
      "config.evaluation.rerank to 0"
    )
  texts = np.flatnonzero(asks)
  found = np.flatnonzero(is_there)
  # What is relevant: the same class, or the very condition.
  kinds = source.labels[first] if level == "class" else np.arange(len(first))
  return _Gallery(
    texts=texts,
    items=first[found],
    text_ids=kinds[which[texts]],
    item_ids=kinds[found],
    coverage=float(is_there.mean()),
  )


def _candidates(scores: np.ndarray, side: Any, count: int) -> np.ndarray:
  """Which pairs are looked at again, bool `[text, item]`."""
  ones = refine_scores(
    scores,
    lambda texts, items: np.ones(len(texts)),
    candidates_of=side,
    num_candidates=count,
    batch_size=scores.size,
  )
  return ones > 0


def _measured(
  caption: str,
  label: str,
  gallery: _Gallery,
  scores: np.ndarray,
  judged: np.ndarray,
  chosen: dict[str, np.ndarray],
  num_candidates: int,
) -> Scores:
  """The measures of both directions."""
  # Only what a text asks for can be asked for its text.
  asked = np.isin(gallery.item_ids, gallery.text_ids)
  texts, items = gallery.text_ids.tolist(), gallery.item_ids.tolist()
  forward, backward = (np.where(chosen[s], judged, 0) for s in ("text", "item"))
  directions = {
    f"{caption}->{label}": (forward, scores, texts, items),
    f"{label}->{caption}": (
      backward.T[asked],
      scores.T[asked],
      gallery.item_ids[asked].tolist(),
      texts,
    ),
  }
  results = {}
  for name, (after, before, queries, found) in directions.items():
    ids = {"query_ids": queries, "gallery_ids": found}
    similarity = score_metrics(before, **ids)
    results[name] = {
      **score_metrics(after, **ids),
      **{
        f"similarity_{key}": value
        for key, value in similarity.items()
        if key.startswith("R@")
      },
      "num_gallery": len(found),
      "num_candidates": min(num_candidates, len(found)),
      "coverage": gallery.coverage,
    }
  return results
