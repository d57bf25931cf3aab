"""Retrieval from scores of pairs, and their refinement by a slower judge.

Similarities of embeddings are cheap, and say which few candidates a model that
reads text and item together should look at: Li et al., Align before Fuse,
arXiv 2107.07651. As in VAST and PMRL, what the judge says then replaces the
similarity.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

Side = Literal["text", "item"]


def refine_scores(
  scores: np.ndarray,
  judge: Callable[[np.ndarray, np.ndarray], np.ndarray],
  *,
  candidates_of: Side = "text",
  num_candidates: int = 50,
  batch_size: int = 64,
) -> np.ndarray:
  """Replaces the highest scores by those of a judge, and all others by 0.

  Args:
    scores: `[text, item]`, finite.
    judge: `(texts, items) -> probabilities`, all `[pair]`: indices, and
      whether they belong together, from 0 to 1. It is asked about `batch_size`
      pairs at a time, always as many (the last ones again, if need be), so
      that it compiles once; items come in order, so that one is looked up
      once.
    candidates_of: Whether every "text" gets so many items (to retrieve items
      by text, forward), or every "item" so many texts (backward).
    num_candidates: How many; all, if there are fewer. Published: 50.
    batch_size: Pairs per call.

  Returns:
    float32 `[text, item]`.

  Raises:
    ValueError: If a shape, a choice or a number is out of range.

  >>> import numpy as np
  >>> from pmrl_jax.evaluation import refine_scores
  >>> scores = np.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.3]])
  >>> def judge(texts, items):
  ...   return 0.5 * (texts == items)
  >>> refine_scores(scores, judge, num_candidates=1).tolist()
  [[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]
  """
  scores = _check_scores(scores)
  if candidates_of not in ("text", "item"):
    raise ValueError(
      f"candidates_of must be 'text' or 'item', got {candidates_of!r}"
    )
  if num_candidates < 1 or batch_size < 1:
    raise ValueError(
      "num_candidates and batch_size must be at least 1, got "
      f"{num_candidates} and {batch_size}"
    )
  by_text = candidates_of == "text"
  rows = scores if by_text else scores.T
  best = np.argsort(-rows, axis=1, kind="stable")[:, :num_candidates]
  asking = np.repeat(np.arange(len(rows)), best.shape[1])
  texts, items = (asking, best.ravel()) if by_text else (best.ravel(), asking)
  order = np.lexsort((texts, items))
  texts, items = texts[order], items[order]
  refined = np.zeros(scores.shape, np.float32)
  for start in range(0, len(texts), batch_size):
    pairs = np.minimum(np.arange(start, start + batch_size), len(texts) - 1)
    some_texts, some_items = texts[pairs], items[pairs]
    refined[some_texts, some_items] = np.asarray(judge(some_texts, some_items))
  return refined


def score_metrics(
  scores: np.ndarray,
  *,
  query_ids: Sequence,
  gallery_ids: Sequence,
  ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
  """R@k and median rank, from scores of all queries with all items.

  A query's rank is that of its best item with the same id. Of equal scores
  those of other items come first, so that what a judge has not seen (0, as all
  that it has not seen) is last, and not where it happens to be stored.

  Args:
    scores: `[query, item]`, finite; of a `[text, item]` matrix the transposed
      one retrieves texts.
    query_ids: `[query]`.
    gallery_ids: `[item]`.
    ks: Depths of R@k.

  Returns:
    "R@k" for each k, as a share, "median_rank" (1 is best) and "num_queries".

  Raises:
    ValueError: If shapes do not fit, scores are not finite, or a query has no
      item.

  >>> import numpy as np
  >>> from pmrl_jax.evaluation import score_metrics
  >>> metrics = score_metrics(
  ...   np.array([[0.9, 0.1], [0.4, 0.3]]), query_ids="ab", gallery_ids="ab"
  ... )
  >>> metrics["R@1"], metrics["median_rank"]
  (0.5, 1.5)
  """
  scores = _check_scores(scores)
  queries, gallery = np.array(list(query_ids)), np.array(list(gallery_ids))
  if scores.shape != (len(queries), len(gallery)):
    raise ValueError(
      "scores must be [query, item] with one id for each, got shape "
      f"{scores.shape} for {len(queries)} and {len(gallery)} ids"
    )
  if not len(ks) or min(ks) < 1:
    raise ValueError(f"ks must be one or more depths from 1 up, got {ks}")
  ranks = np.empty(len(queries), int)
  for row, query in enumerate(queries):
    relevant = gallery == query
    if not relevant.any():
      raise ValueError(
        f"the query {row} with id {query!r} has no item in the gallery; leave "
        "it out, or add the item"
      )
    best = scores[row, relevant].max()
    ranks[row] = 1 + np.count_nonzero(scores[row, ~relevant] >= best)
  return {
    **{f"R@{k}": float(np.mean(ranks <= k)) for k in ks},
    "median_rank": float(np.median(ranks)),
    "num_queries": len(ranks),
  }


def _check_scores(scores: np.ndarray) -> np.ndarray:
  scores = np.asarray(scores)
  if scores.ndim != 2 or not scores.size:
    raise ValueError(
      f"scores must be a matrix with entries, got shape {scores.shape}"
    )
  if not np.isfinite(scores).all():
    raise ValueError("scores must be finite, got NaN or infinity")
  return scores
