"""Cross-modal retrieval: R@k, median rank and mean average precision.

Similarity is the cosine. Every measure is pessimistic about ties: an item
whose cosine is within `TIE` of a relevant item's counts as ranked before it.
A collapsed model, for which all items are equally similar, so scores zero and
not by the luck of the order in which the gallery happens to be stored.
"""

from collections.abc import Callable, Sequence

import numpy as np

from pmrl_jax.evaluation.embedding_set import (
  REST,
  EmbeddingSet,
  Records,
  check_embedding_set,
  direction_records,
  modality_records,
  normalised,
)

# Cosines of float32 embeddings do not resolve less than this.
TIE = 1e-6
# Similarities held at once: 2**21 float64 are 16 MiB, whatever the gallery.
BLOCK_ENTRIES = 2**21
# So many relevant items are ranked faster by counting than by sorting.
_FEW = 8


def retrieval_metrics(
  queries: np.ndarray,
  gallery: np.ndarray,
  *,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
  """Scores how well queries find the gallery items that share their id.

  R@k is the share of queries with a relevant item among the first k; the
  median rank is that of each query's first relevant item; mAP averages, over
  queries, the precision at every relevant item. Memory is O(gallery) and a
  constant, never queries x gallery.

  Args:
    queries: `[query, dim]`, normalised here.
    gallery: `[item, dim]`, normalised here.
    query_ids: `[query]`; an item with an equal id is relevant.
    gallery_ids: `[item]`.
    ks: depths of R@k.

  Returns:
    "R@k" for each k, "median_rank" (1 is best), "mAP", "chance_R@1" (the
    expected R@1 of a random order), "num_queries" and "num_gallery".

  Raises:
    ValueError: if shapes do not fit, values are not finite, or a query has no
      relevant item.

  >>> import numpy as np
  >>> from pmrl_jax.evaluation import retrieval_metrics
  >>> scores = retrieval_metrics(
  ...   np.eye(3), np.eye(3), query_ids=[0, 1, 2], gallery_ids=[0, 2, 1]
  ... )
  >>> round(scores["R@1"], 3), scores["median_rank"], scores["num_queries"]
  (0.333, 3.0, 3)
  """
  queries, gallery = np.asarray(queries), np.asarray(gallery)
  query_ids, gallery_ids = np.asarray(query_ids), np.asarray(gallery_ids)
  _check_arrays(queries, gallery, query_ids, gallery_ids, ks)
  matched = np.isin(query_ids, gallery_ids)
  if not matched.all():
    lost = np.flatnonzero(~matched)
    raise ValueError(
      f"{len(lost)} of {len(queries)} queries have no relevant gallery item "
      f"(the first is query {lost[0]} with id {query_ids[lost[0]]}): their "
      "rank is undefined; leave them out or add their items to the gallery."
    )
  scores = _score(
    normalised(queries),
    normalised(gallery),
    lambda query: gallery_ids == query_ids[query],
    ks,
  )
  del scores["num_unmatched"]
  return scores


def cross_modal_retrieval(
  embedding_set: EmbeddingSet,
  *,
  level: str,
  ks: Sequence[int] = (1, 5, 10),
) -> dict[str, dict[str, float]]:
  """Scores retrieval between every ordered pair of modalities.

  Queries and galleries are the distinct records of a modality. "rest" is the
  leading direction of all other modalities together. Absent modalities are
  left out; a query without any relevant item in the gallery (its counterpart
  is absent) is left out too and counted in "num_unmatched". "coverage" is the
  share of the gallery's records, present or not, of which both sides are
  there: a figure with less than 1 is that of a smaller, easier gallery. A
  video with ten captions is one record, and so it counts once.

  Args:
    embedding_set: embeddings of one split.
    level: "class" (relevant: same label) or "instance" (relevant: occurs in
      the same instance).
    ks: depths of R@k.

  Returns:
    {"image->speech": scores, ..., "image->rest": scores, ...}; the scores are
    those of `retrieval_metrics`, "num_unmatched" and "coverage".

  Raises:
    ValueError: if the set is malformed, the level is unknown or has no
      labels, or a direction has no valid query.
  """
  check_embedding_set(embedding_set, level)
  records = {
    name: modality_records(embedding_set, name)
    for name in embedding_set.modalities
  }
  results = {}
  for column, (name, queries) in enumerate(records.items()):
    galleries = {other: records[other] for other in records if other != name}
    galleries[REST] = direction_records(embedding_set, without=name)
    for other, gallery in galleries.items():
      scores = _score(
        queries.vectors,
        gallery.vectors,
        relevance(queries, gallery, level=level),
        ks,
      )
      if not scores["num_queries"]:
        raise ValueError(
          f"{name}->{other} has no valid query: no present {name!r} has a "
          f"relevant item in {other!r} ({len(queries.vectors)} queries, "
          f"{len(gallery.vectors)} items); evaluate a split in which the two "
          "occur together, or leave the modality out."
        )
      items = (
        np.delete(embedding_set.items, column, axis=1)
        if other == REST
        else embedding_set.items[:, [embedding_set.modalities.index(other)]]
      )
      scores["coverage"] = _coverage(queries, gallery, items)
      results[f"{name}->{other}"] = scores
  return results


def relevance(
  queries: Records, gallery: Records, *, level: str
) -> Callable[[int], np.ndarray]:
  """Returns the function from a query's row to its relevant items.

  Args:
    queries: records of the asking modality.
    gallery: records of the answering modality.
    level: "class" or "instance".

  Returns:
    A function of a query's row, giving `[item]` bool.
  """

  def same_class(query: int) -> np.ndarray:
    return gallery.labels == queries.labels[query]  # type: ignore[index]

  def same_instance(query: int) -> np.ndarray:
    partners = gallery.of_instance[queries.of_instance == query]
    relevant = np.zeros(len(gallery.vectors), bool)
    relevant[partners[partners >= 0]] = True
    return relevant

  return same_class if level == "class" else same_instance


def _coverage(queries: Records, gallery: Records, items: np.ndarray) -> float:
  """The share of a gallery's records, absent ones too, that can be found.

  Args:
    queries: records of the asking modality.
    gallery: those of the answering one that are present.
    items: `[instance, modality]`, all records of the answering one.

  Returns:
    From 0 to 1.
  """
  both = (queries.of_instance >= 0) & (gallery.of_instance >= 0)
  distinct, record = np.unique(items, axis=0, return_inverse=True)
  is_there = np.zeros(len(distinct), bool)
  is_there[record.reshape(-1)[both]] = True
  return float(is_there.mean())


def _score(
  queries: np.ndarray,
  gallery: np.ndarray,
  relevant_items: Callable[[int], np.ndarray],
  ks: Sequence[int],
) -> dict[str, float]:
  """Ranks every query's relevant items, a block of queries at a time."""
  first, precision, chance = [], [], []
  block = max(1, BLOCK_ENTRIES // max(1, len(gallery)))
  for start in range(0, len(queries), block):
    cosines = queries[start : start + block] @ gallery.T
    for query, row in enumerate(cosines, start):
      relevant = relevant_items(query)
      ranks = _ranks(row, relevant)
      if ranks.size:
        first.append(ranks[0])
        precision.append(np.mean(np.arange(1, ranks.size + 1) / ranks))
        chance.append(relevant.mean())
  ranked = np.asarray(first)
  scores = {
    f"R@{k}": float(np.mean(ranked <= k)) if first else np.nan for k in ks
  }
  scores["median_rank"] = float(np.median(ranked)) if first else np.nan
  scores["mAP"] = float(np.mean(precision)) if first else np.nan
  scores["chance_R@1"] = float(np.mean(chance)) if first else np.nan
  scores["num_queries"] = len(first)
  scores["num_unmatched"] = len(queries) - len(first)
  scores["num_gallery"] = len(gallery)
  return scores


def _ranks(cosines: np.ndarray, relevant: np.ndarray) -> np.ndarray:
  """Ranks, from 1, of one query's relevant items, best first."""
  wanted = np.sort(cosines[relevant])[::-1]
  others, least = cosines[~relevant], wanted - TIE
  if least.size <= _FEW:
    ahead = np.array([np.count_nonzero(others >= each) for each in least], int)
  else:
    ahead = others.size - np.searchsorted(np.sort(others), least)
  return ahead + np.arange(1, wanted.size + 1)


def _check_arrays(
  queries: np.ndarray,
  gallery: np.ndarray,
  query_ids: np.ndarray,
  gallery_ids: np.ndarray,
  ks: Sequence[int],
) -> None:
  """Raises unless the arrays of `retrieval_metrics` fit together."""
  if (
    queries.ndim != 2
    or gallery.ndim != 2
    or queries.shape[1] != gallery.shape[1]
  ):
    raise ValueError(
      "queries must be [query, dim] and gallery [item, dim] with the same dim, "
      f"got shapes {queries.shape} and {gallery.shape}."
    )
  for name, ids, rows in (
    ("query_ids", query_ids, queries),
    ("gallery_ids", gallery_ids, gallery),
  ):
    if ids.shape != (len(rows),):
      raise ValueError(
        f"{name} must hold one id per row, shape ({len(rows)},), got shape "
        f"{ids.shape}."
      )
    if not np.isfinite(rows).all():
      raise ValueError(
        f"the rows that belong to {name} hold values that are not finite; "
        "leave absent items out before ranking."
      )
  if not len(queries):
    raise ValueError("there is no query to rank, got queries of 0 rows.")
  if not len(ks) or min(ks) < 1:
    raise ValueError(f"ks must be one or more depths from 1 up, got {ks}.")
