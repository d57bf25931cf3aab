"""Re-ranking by a judge, and the metrics of a matrix of scores."""

import numpy as np
import pytest

from pmrl_jax.evaluation import refine_scores, score_metrics


@pytest.mark.parametrize("side", ["text", "item"])
def test_the_judge_sees_the_best_candidates_alone(side):
  scores = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
  asked = []

  def judge(texts, items):
    asked.extend(zip(texts.tolist(), items.tolist()))
    assert len(texts) == len(items) == 4
    return 0.1 + 0.01 * texts + 0.001 * items

  refined = refine_scores(
    scores, judge, candidates_of=side, num_candidates=2, batch_size=4
  )
  axis = 1 if side == "text" else 0
  ranks = np.argsort(np.argsort(-scores, axis=axis), axis=axis)
  assert set(asked) == set(zip(*np.nonzero(ranks < 2)))
  t, i = np.indices(scores.shape)
  expected = np.where(ranks < 2, 0.1 + 0.01 * t + 0.001 * i, 0)
  np.testing.assert_allclose(refined, expected, rtol=1e-6)
  # Items are looked up one after another.
  assert [item for _, item in asked] == sorted(item for _, item in asked)


def test_few_entries_are_all_judged():
  refined = refine_scores(np.zeros((2, 3)), lambda t, i: np.ones(len(t)))
  assert refined.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_equal_scores_count_against_the_query():
  scores = np.zeros((2, 4))
  scores[1, 1] = 1e-9
  metrics = score_metrics(
    scores, query_ids=[0, 1], gallery_ids=[0, 1, 2, 3], ks=(1, 4)
  )
  assert metrics["R@1"] == 0.5 and metrics["R@4"] == 1
  assert metrics["median_rank"] == 2.5


@pytest.mark.parametrize(
  "options,message",
  [
    ({"scores": np.zeros(3)}, "must be a matrix"),
    ({"scores": np.full((2, 2), np.nan)}, "must be finite"),
    ({"candidates_of": "video"}, "'text' or 'item', got 'video'"),
    ({"num_candidates": 0}, "at least 1"),
  ],
)
def test_wrong_refinement_is_explained(options, message):
  arguments = {"scores": np.zeros((2, 2)), "judge": None, **options}
  with pytest.raises(ValueError, match=message):
    refine_scores(arguments.pop("scores"), arguments.pop("judge"), **arguments)


@pytest.mark.parametrize(
  "options,message",
  [
    ({"query_ids": [0]}, "one id for each"),
    ({"gallery_ids": [0, 2]}, "query 1 with id"),
    ({"ks": ()}, "depths"),
  ],
)
def test_wrong_metrics_are_explained(options, message):
  arguments = {"query_ids": [0, 1], "gallery_ids": [0, 1], **options}
  with pytest.raises(ValueError, match=message):
    score_metrics(np.zeros((2, 2)), **arguments)
