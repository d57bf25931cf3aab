"""Mixtures: shares, epochs of each data set, absent modalities, ids."""

import numpy as np
import pytest

from pmrl_jax.data import ArraySource, Mixture, training_iterator


def source(start, length, modalities=("a", "b")):
  rows = np.arange(start, start + length, dtype=np.float32)
  return ArraySource({name: rows[:, np.newaxis] for name in modalities})


def rows_of(mixture, steps, batch_size=10, **options):
  options = {"process_index": 0, "process_count": 1} | options
  iterator = training_iterator(
    mixture, batch_size=batch_size, seed=3, **options
  )
  batches = [next(iterator) for _ in range(steps)]
  return np.concatenate([batch["inputs"]["a"][:, 0] for batch in batches])


def test_shares_are_the_weights_and_each_data_set_keeps_its_epochs():
  mixture = Mixture([source(0, 30), source(1000, 70)], [3, 1])
  rows = rows_of(mixture, steps=200)
  first, second = rows[rows < 1000], rows[rows >= 1000]
  assert len(first) == 1500 and len(second) == 500
  for values, size in ((first, 30), (second, 70)):
    for start in range(0, len(values) - size, size):
      assert len(set(values[start : start + size])) == size
  # Mixed throughout, not one after the other.
  shares = (rows.reshape(-1, 100) < 1000).mean(axis=1)
  assert 0.55 < shares.min() and shares.max() < 0.95


def test_a_step_is_the_same_on_any_number_of_processes():
  mixture = Mixture([source(0, 30), source(1000, 7)], [1, 2])
  whole = rows_of(mixture, steps=8)
  parts = [
    rows_of(mixture, steps=8, process_index=index, process_count=2)
    for index in range(2)
  ]
  halves = [part.reshape(8, 5) for part in parts]
  np.testing.assert_array_equal(
    whole.reshape(8, 10), np.concatenate(halves, axis=1)
  )


def test_a_modality_that_a_data_set_lacks_is_absent_and_ids_never_meet():
  mixture = Mixture(
    [source(1, 30), source(1000, 30, modalities=("b", "c"))], [1, 1]
  )
  batch = next(
    training_iterator(
      mixture, batch_size=60, seed=0, process_index=0, process_count=1
    )
  )
  assert list(batch["inputs"]) == ["a", "b", "c"]
  is_second = batch["inputs"]["b"][:, 0] >= 1000
  np.testing.assert_array_equal(
    batch["where"], np.where(is_second[:, None], [[0, 1, 1]], [[1, 1, 0]])
  )
  assert not batch["inputs"]["a"][is_second].any()
  assert (batch["items"][is_second, 0] == -1).all()
  assert not set(batch["ids"][is_second]) & set(batch["ids"][~is_second])


@pytest.mark.parametrize(
  "weights,words",
  [([1], "one weight"), ([1, 0], "positive"), ([1, 1e-5], "one in 1000")],
)
def test_weights_that_cannot_be_kept_are_refused(weights, words):
  with pytest.raises(ValueError, match=words):
    rows_of(Mixture([source(0, 5), source(9, 5)], weights), steps=1)


def test_items_of_different_shapes_are_refused():
  wide = ArraySource({"a": np.zeros((4, 3), np.float32)})
  with pytest.raises(ValueError, match="one shape and type"):
    rows_of(Mixture([source(0, 5), wide], [1, 1]), steps=1)
