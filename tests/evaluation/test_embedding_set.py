import numpy as np
import pytest

from pmrl_jax.evaluation.embedding_set import (
  check_embedding_set,
  direction_records,
  modality_records,
)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"embeddings": np.ones((60, 3))}, r"\[instance, modality, dim\]"),
    ({"where": np.ones((60, 2), bool)}, r"where must be bool of shape"),
    ({"where": np.ones((60, 3))}, "where must be bool"),
    ({"items": np.ones((60, 3))}, "items must be int"),
    ({"items": np.ones((60, 1), int)}, "items must be int of shape"),
    ({"modalities": ("image", "text")}, "3 distinct names"),
    ({"modalities": ("image", "text", "text")}, "3 distinct names"),
    ({"modalities": ("image", "text", "rest")}, "none of them called 'rest'"),
    ({"labels": np.ones(59, int)}, "one per instance"),
    ({"labels": np.ones(60)}, "labels must be int"),
  ],
)
def test_malformed_sets_are_explained(make_set, change, message):
  with pytest.raises(ValueError, match=message):
    check_embedding_set(make_set()._replace(**change))


def test_one_modality_is_not_enough(make_set):
  with pytest.raises(ValueError, match="two or more modalities"):
    check_embedding_set(make_set(modalities=("image",)))


def test_present_embeddings_must_be_finite(make_set):
  data = make_set()
  data.embeddings[7, 1, 0] = np.nan
  with pytest.raises(ValueError, match="1 embeddings .*'speech' of instance 7"):
    check_embedding_set(data)
  data.where[7, 1] = False
  check_embedding_set(data)


def test_a_record_has_one_label(make_set):
  data = make_set()
  data.items[1, 0] = data.items[0, 0]
  with pytest.raises(ValueError, match="item .* of 'image' carries the labels"):
    modality_records(data, "image")


def test_records_keep_the_first_embedding_of_each_item(make_set):
  data = make_set()
  data.items[5, 0] = data.items[0, 0]
  data.where[3, 0] = False
  records = modality_records(data, "image")
  assert len(records.vectors) == 58
  assert records.of_instance[5] == records.of_instance[0]
  assert records.of_instance[3] == -1
  first = np.float64(data.embeddings[0, 0])
  np.testing.assert_allclose(
    records.vectors[records.of_instance[5]], first / np.linalg.norm(first)
  )
  np.testing.assert_array_equal(
    records.labels[records.of_instance[[0, 1, 2]]], data.labels[[0, 1, 2]]
  )


def test_direction_is_the_normalised_sum_of_the_others(make_set):
  data = make_set(missing=0.3, seed=3)
  records = direction_records(data, without="speech")
  unit = np.float64(data.embeddings)
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
  where = data.where & [True, False, True]
  for instance, row in enumerate(records.of_instance):
    if not where[instance].any():
      assert row == -1
      continue
    total = unit[instance, where[instance]].sum(axis=0)
    np.testing.assert_allclose(
      records.vectors[row], total / np.linalg.norm(total), atol=1e-6
    )


def test_a_zero_embedding_has_no_direction(make_set):
  data = make_set()
  data.embeddings[4, 0] = 0
  records = modality_records(data, "image")
  np.testing.assert_array_equal(records.vectors[records.of_instance[4]], 0)
