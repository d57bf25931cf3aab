import itertools
import tracemalloc

import numpy as np
import pytest

from pmrl_jax.evaluation import (
  EmbeddingSet,
  cross_modal_retrieval,
  retrieval_metrics,
)
from pmrl_jax.evaluation import retrieval as retrieval_module

KS = (1, 5, 10)


def oracle(queries, gallery, query_ids, gallery_ids, ks=KS):
  """Sorts the gallery for each query; relevant items lose every tie."""
  first, precision = [], []
  for query, query_id in zip(np.float64(queries), query_ids):
    ranking = []
    for item, item_id in zip(np.float64(gallery), gallery_ids):
      cosine = query @ item / np.linalg.norm(query) / np.linalg.norm(item)
      ranking.append((-round(cosine, 5), item_id == query_id))
    ranking.sort()
    hits = [rank for rank, (_, hit) in enumerate(ranking, 1) if hit]
    if hits:
      first.append(hits[0])
      precision.append(
        np.mean([number / rank for number, rank in enumerate(hits, 1)])
      )
  scores = {f"R@{k}": np.mean([rank <= k for rank in first]) for k in ks}
  scores["median_rank"] = np.median(first)
  scores["mAP"] = np.mean(precision)
  scores["num_queries"] = len(first)
  return scores


def assert_scores(actual, expected):
  for key, value in expected.items():
    np.testing.assert_allclose(actual[key], value, rtol=1e-9, err_msg=key)


def random_problem(seed, *, ties):
  """Several relevant items per query; vectors on a grid tie all the time."""
  rng = np.random.default_rng(seed)
  if ties:
    queries = rng.integers(-1, 2, (40, 3))
    gallery = rng.integers(-1, 2, (50, 3))
    queries[~queries.any(axis=1)] = 1
    gallery[~gallery.any(axis=1)] = 1
  else:
    queries, gallery = rng.normal(size=(40, 6)), rng.normal(size=(50, 6))
  gallery_ids = np.arange(50) % 7
  return queries, gallery, rng.integers(0, 7, 40), gallery_ids


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_the_naive_ranking(seed, ties):
  queries, gallery, query_ids, gallery_ids = random_problem(seed, ties=ties)
  scores = retrieval_metrics(
    queries, gallery, query_ids=query_ids, gallery_ids=gallery_ids
  )
  assert_scores(scores, oracle(queries, gallery, query_ids, gallery_ids))
  assert scores["num_gallery"] == 50
  chance = np.mean(query_ids[:, None] == gallery_ids[None])
  np.testing.assert_allclose(scores["chance_R@1"], chance)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tied_item_counts_as_ranked_before_the_relevant_one(order):
  # The same vector twice, in either order; float32 noise is still a tie.
  gallery = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0 + 2e-7]], np.float32)
  scores = retrieval_metrics(
    np.array([[1.0, 2.0, 3.0]], np.float32),
    gallery[list(order)],
    query_ids=np.array([7]),
    gallery_ids=np.array([7, 8])[list(order)],
  )
  assert (scores["R@1"], scores["median_rank"], scores["mAP"]) == (0, 2, 0.5)


def test_a_collapsed_space_scores_the_worst_ranks():
  scores = retrieval_metrics(
    np.ones((20, 4)),
    np.ones((20, 4)),
    query_ids=np.arange(20),
    gallery_ids=np.arange(20),
  )
  assert scores["R@10"] == 0
  assert scores["median_rank"] == 20


def test_a_perfect_space_scores_one():
  scores = retrieval_metrics(
    np.eye(20), 3 * np.eye(20), query_ids=range(20), gallery_ids=range(20)
  )
  assert (scores["R@1"], scores["median_rank"], scores["mAP"]) == (1, 1, 1)


def test_random_embeddings_score_chance():
  rng = np.random.default_rng(0)
  ids = np.arange(3000) % 10
  scores = retrieval_metrics(
    rng.normal(size=(3000, 32)),
    rng.normal(size=(1000, 32)),
    query_ids=ids,
    gallery_ids=ids[:1000],
  )
  # Four standard deviations of a share of 3,000.
  assert abs(scores["R@1"] - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 3000)
  np.testing.assert_allclose(scores["chance_R@1"], 0.1)


def test_blocks_do_not_change_the_scores(monkeypatch):
  queries, gallery, query_ids, gallery_ids = random_problem(0, ties=True)
  ids = {"query_ids": query_ids, "gallery_ids": gallery_ids}
  whole = retrieval_metrics(queries, gallery, **ids)
  for entries in (1, 50, 333):
    monkeypatch.setattr(retrieval_module, "BLOCK_ENTRIES", entries)
    assert retrieval_metrics(queries, gallery, **ids) == whole


def test_memory_does_not_hold_all_similarities(monkeypatch):
  monkeypatch.setattr(retrieval_module, "BLOCK_ENTRIES", 2**16)
  rng = np.random.default_rng(0)
  queries, gallery = rng.normal(size=(2, 2000, 8))
  tracemalloc.start()
  retrieval_metrics(
    queries, gallery, query_ids=range(2000), gallery_ids=range(2000)
  )
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 2000 * 2000 * 8 / 8


def test_metrics_do_not_depend_on_order_scale_or_basis():
  queries, gallery, query_ids, gallery_ids = random_problem(1, ties=False)
  rng = np.random.default_rng(5)
  basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
  q, g = rng.permutation(40), rng.permutation(50)
  expected = retrieval_metrics(
    queries, gallery, query_ids=query_ids, gallery_ids=gallery_ids
  )
  actual = retrieval_metrics(
    (queries * rng.uniform(0.1, 9, (40, 1)))[q] @ basis,
    (gallery * rng.uniform(0.1, 9, (50, 1)))[g] @ basis,
    query_ids=query_ids[q],
    gallery_ids=gallery_ids[g],
  )
  assert_scores(actual, expected)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"query_ids": np.array([0, 1, 9, 9])}, "2 of 4 queries have no relevant"),
    ({"queries": np.ones((4, 3))}, "same dim"),
    ({"queries": np.ones(4)}, r"\[query, dim\]"),
    ({"query_ids": np.arange(3)}, "one id per row"),
    ({"gallery_ids": np.arange(3)}, "one id per row"),
    ({"gallery": np.full((4, 2), np.nan)}, "not finite"),
    ({"ks": ()}, "depths"),
    ({"ks": (0, 1)}, "depths"),
    (
      {"queries": np.ones((0, 2)), "query_ids": np.arange(0)},
      "there is no query",
    ),
  ],
)
def test_wrong_arrays_are_explained(change, message):
  arguments = {
    "queries": np.ones((4, 2)),
    "gallery": np.ones((4, 2)),
    "query_ids": np.arange(4),
    "gallery_ids": np.arange(4),
  } | change
  queries, gallery = arguments.pop("queries"), arguments.pop("gallery")
  with pytest.raises(ValueError, match=message):
    retrieval_metrics(queries, gallery, **arguments)


def naive_cross_modal(data, level):
  """Every direction from dictionaries of first occurrences."""
  size = len(data.modalities)
  unit = np.float64(data.embeddings)
  unit = unit / np.linalg.norm(unit, axis=-1, keepdims=True)

  def records(columns):
    found = {}
    for i in range(len(unit)):
      present = [m for m in columns if data.where[i, m]]
      key = tuple(data.items[i, m] if m in present else -1 for m in columns)
      if present:
        vector = unit[i, present].sum(axis=0)
        found.setdefault(key, (vector, set()))[1].add(i)
    return list(found.values())

  result = {}
  for i, j in itertools.product(range(size), [*range(size), None]):
    if i == j:
      continue
    others = [m for m in range(size) if m != i] if j is None else [j]
    queries, gallery = records([i]), records(others)
    first, precision = [], []
    for vector, instances in queries:
      ranking = []
      for other, members in gallery:
        if level == "class":
          hit = data.labels[min(members)] == data.labels[min(instances)]
        else:
          hit = bool(members & instances)
        cosine = vector @ other / np.linalg.norm(vector)
        ranking.append((-round(cosine / np.linalg.norm(other), 5), bool(hit)))
      ranking.sort()
      hits = [rank for rank, (_, hit) in enumerate(ranking, 1) if hit]
      if hits:
        first.append(hits[0])
        precision.append(
          np.mean([number / rank for number, rank in enumerate(hits, 1)])
        )
    names = (data.modalities[i], "rest" if j is None else data.modalities[j])
    result["->".join(names)] = {
      "R@1": np.mean(np.array(first) <= 1),
      "R@5": np.mean(np.array(first) <= 5),
      "median_rank": np.median(first),
      "mAP": np.mean(precision),
      "num_queries": len(first),
      "num_unmatched": len(queries) - len(first),
      "num_gallery": len(gallery),
    }
  return result


def shared_items(data, seed=0):
  """Lets pairs of instances of a class share their image."""
  items = data.items.copy()
  embeddings = data.embeddings.copy()
  partner = np.maximum(np.arange(len(items)) - 5, 0)
  takes = np.random.default_rng(seed).random(len(items)) < 0.5
  takes &= data.labels[partner] == data.labels
  for i in np.flatnonzero(takes):
    items[i, 0] = items[partner[i], 0]
    embeddings[i, 0] = embeddings[partner[i], 0]
  return data._replace(items=items, embeddings=embeddings)


@pytest.mark.parametrize("level", ["class", "instance"])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_cross_modal_retrieval_equals_the_naive_one(make_set, level, missing):
  data = shared_items(make_set(noise=1.0, missing=missing))
  actual = cross_modal_retrieval(data, level=level)
  expected = naive_cross_modal(data, level)
  assert set(actual) == set(expected)
  for name, scores in expected.items():
    assert_scores(actual[name], scores)


def test_repeated_instances_count_once(make_set):
  data = make_set(noise=1.0)
  rows = np.r_[np.arange(60), np.arange(10), np.arange(10)]
  repeated = EmbeddingSet(
    data.embeddings[rows],
    data.where[rows],
    data.modalities,
    data.labels[rows],
    data.items[rows],
  )
  for level in ("class", "instance"):
    assert cross_modal_retrieval(repeated, level=level) == (
      cross_modal_retrieval(data, level=level)
    )


def test_one_image_with_several_texts_finds_each_of_them():
  # Two images with two texts each; every text belongs to one image.
  image = np.eye(4)[[0, 0, 1, 1]]
  text = np.eye(4)[[0, 0, 1, 1]] + 0.1 * np.eye(4)
  data = EmbeddingSet(
    np.stack([image, text], axis=1),
    np.ones((4, 2), bool),
    ("image", "text"),
    None,
    np.array([[5, 0], [5, 1], [6, 2], [6, 3]]),
  )
  scores = cross_modal_retrieval(data, level="instance")
  assert scores["image->text"]["num_queries"] == 2
  assert scores["image->text"]["mAP"] == 1
  assert scores["text->image"]["num_gallery"] == 2
  assert scores["text->image"]["R@1"] == 1


def test_coverage_counts_the_items_of_the_gallery_once():
  # Three clips with 3, 1 and no captions; the sound of the first is missing,
  # and so is a caption of the third, which the gallery should have.
  rows = np.array([0, 0, 0, 1, 2])
  texts = np.array([0, 1, 2, 3, 9])
  where = np.ones((5, 3), bool)
  where[rows == 0, 1] = False
  where[4, 2] = False
  rng = np.random.default_rng(0)
  data = EmbeddingSet(
    rng.normal(size=(5, 3, 4)),
    where,
    ("video", "audio", "text"),
    None,
    np.stack([rows, rows, texts], axis=1),
  )
  scores = cross_modal_retrieval(data, level="instance")
  coverage = {name: each["coverage"] for name, each in scores.items()}
  assert coverage == {
    "video->audio": pytest.approx(2 / 3),
    "video->text": pytest.approx(4 / 5),
    "video->rest": 1,  # of something else
    "audio->video": pytest.approx(2 / 3),
    "audio->text": pytest.approx(1 / 5),
    "audio->rest": pytest.approx(2 / 5),
    "text->video": pytest.approx(2 / 3),
    "text->audio": pytest.approx(1 / 3),
    "text->rest": pytest.approx(2 / 3),
  }


def test_content_of_absent_modalities_never_matters(make_set):
  data = make_set(missing=0.3)
  expected = cross_modal_retrieval(data, level="class")
  for content in (0.0, np.nan, np.inf, 1e30):
    embeddings = np.where(data.where[..., None], data.embeddings, content)
    actual = cross_modal_retrieval(
      data._replace(embeddings=embeddings), level="class"
    )
    assert actual == expected


def test_retrieval_does_not_depend_on_the_order_of_modalities(make_set):
  data = make_set(missing=0.2, noise=1.0)
  order = [2, 0, 1]
  permuted = EmbeddingSet(
    data.embeddings[:, order],
    data.where[:, order],
    tuple(data.modalities[i] for i in order),
    data.labels,
    data.items[:, order],
  )
  expected = cross_modal_retrieval(data, level="instance")
  actual = cross_modal_retrieval(permuted, level="instance")
  for name, scores in expected.items():
    assert_scores(actual[name], scores)


def test_a_flipped_modality_is_not_found(make_set):
  data = make_set(noise=0.01)
  embeddings = data.embeddings.copy()
  embeddings[:, 1] *= -1
  flipped = cross_modal_retrieval(
    data._replace(embeddings=embeddings), level="class"
  )
  assert cross_modal_retrieval(data, level="class")["image->speech"]["R@1"] == 1
  assert flipped["image->speech"]["R@1"] == 0
  assert flipped["image->text"]["R@1"] == 1


def test_an_unknown_level_is_named(make_set):
  with pytest.raises(ValueError, match="'class', 'instance'.*got 'klass'"):
    cross_modal_retrieval(make_set(), level="klass")


def test_class_level_needs_labels(make_set):
  with pytest.raises(ValueError, match="needs labels, got None"):
    cross_modal_retrieval(make_set()._replace(labels=None), level="class")


def test_a_direction_without_valid_query_is_named(make_set):
  data = make_set()
  where = data.where.copy()
  # Image and speech never occur together.
  where[:30, 0] = False
  where[30:, 1] = False
  with pytest.raises(ValueError, match="image->speech has no valid query"):
    cross_modal_retrieval(data._replace(where=where), level="instance")
