import json

import numpy as np
import pytest

from pmrl_jax.evaluation import evaluate, summary_table


def test_summary_is_plain_json(make_set):
  summary = evaluate(
    make_set(noise=1.0, missing=0.2), train_set=make_set(seed=1), level="class"
  )
  assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_summary_means_leave_the_rest_directions_out(make_set):
  summary = evaluate(make_set(noise=1.5), level="class")
  pairs = {
    name: scores
    for name, scores in summary["retrieval"].items()
    if not name.endswith("->rest")
  }
  rest = [summary["retrieval"][f"{name}->rest"] for name in ("image", "text")]
  assert len(pairs) == 6
  for key in ("R@1", "mAP"):
    np.testing.assert_allclose(
      summary[f"mean_{key}"],
      np.mean([scores[key] for scores in pairs.values()]),
    )
  assert min(scores["R@1"] for scores in rest) > summary["mean_R@1"]
  assert "probe" not in summary


def test_incomplete_instances_give_an_empty_spectrum(make_set):
  data = make_set()
  data.where[:20, 0] = data.where[20:40, 1] = data.where[40:, 2] = False
  summary = evaluate(data, level="class")
  assert summary["spectrum"] == []
  assert set(summary["cosines"]) == {
    "image & speech",
    "image & text",
    "speech & text",
  }


@pytest.mark.parametrize("size", [2, 3, 8, 14])
def test_table_fits_the_console(make_set, size):
  names = [f"modality_with_a_long_name_{i}" for i in range(size)]
  names[0] = "pix"
  data = make_set(20, names, noise=1.0)
  summary = evaluate(data, train_set=data, level="instance")
  table = summary_table(summary)
  assert max(map(len, table.splitlines())) <= 80
  for scores in summary["retrieval"].values():
    assert f"{scores['R@1']:.3f}" in table


def test_table_shows_scores_in_their_row_and_column(make_set):
  summary = evaluate(make_set(noise=2.0), train_set=make_set(), level="class")
  lines = summary_table(summary).splitlines()
  header = next(line for line in lines if "rest" in line)
  assert header.split()[-4:] == ["image", "speech", "text", "rest"]
  row = next(line for line in lines if line.startswith("speech"))
  retrieval = summary["retrieval"]
  assert row.split() == [
    "speech",
    f"{retrieval['speech->image']['R@1']:.3f}",
    "–",
    f"{retrieval['speech->text']['R@1']:.3f}",
    f"{retrieval['speech->rest']['R@1']:.3f}",
  ]
  assert f"mean R@1 {summary['mean_R@1']:.3f}" in lines[0]
  accuracies = next(line for line in lines if line.startswith("leading"))
  assert accuracies.split()[1:] == [
    f"{value:.3f}" for value in summary["probe"]["leading_direction"].values()
  ]


def test_table_writes_a_dash_for_what_is_unknown():
  summary = {
    "retrieval": {"a->b": {"R@1": float("nan")}, "b->a": {"R@1": 0.5}},
    "mean_R@1": None,
  }
  lines = summary_table(summary).splitlines()
  assert lines[0].startswith("mean R@1 –")
  assert lines[-2].split() == ["a", "–", "–", "–"]
  assert lines[-1].split() == ["b", "0.500", "–", "–"]
