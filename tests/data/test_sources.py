"""Sources: which items make up an instance, and what they refuse."""

import numpy as np
import pytest

from pmrl_jax.data import ArraySource, ClassPairedSource, Table


def _tables(rng, num_classes=3, num_modalities=3):
  """Tables of random sizes whose values name the item and its class."""
  tables = {}
  for m in range(num_modalities):
    counts = rng.integers(1, 9, num_classes)
    labels = rng.permutation(np.repeat(np.arange(num_classes), counts))
    items = np.arange(len(labels))
    values = np.stack([items, labels], axis=1).astype(np.float32)
    tables[f"m{m}"] = Table(values, labels)
  return tables


@pytest.mark.parametrize("seed", range(10))
def test_pairing_stays_within_the_class(seed):
  tables = _tables(np.random.default_rng(seed))
  source = ClassPairedSource(tables, seed=seed)
  for epoch in range(3):
    items = source.pairing(epoch)
    assert items.shape == (len(source), 3) and items.dtype == np.int32
    for column, table in enumerate(tables.values()):
      labels = table.labels[items[:, column]]
      np.testing.assert_array_equal(labels, source.labels)


@pytest.mark.parametrize("seed", range(10))
def test_every_item_of_every_modality_appears_as_evenly_as_can_be(seed):
  tables = _tables(np.random.default_rng(seed))
  source = ClassPairedSource(tables, seed=seed)
  items = source.pairing(1)
  for column, table in enumerate(tables.values()):
    uses = np.bincount(items[:, column], minlength=len(table.labels))
    for label in range(3):
      of_class = uses[table.labels == label]
      assert of_class.min() >= 1
      assert of_class.max() - of_class.min() <= 1


def test_a_class_has_as_many_instances_as_its_most_frequent_modality():
  tables = _tables(np.random.default_rng(0))
  counts = np.stack([np.bincount(t.labels) for t in tables.values()])
  source = ClassPairedSource(tables, seed=0)
  np.testing.assert_array_equal(np.bincount(source.labels), counts.max(axis=0))


def test_pairing_changes_with_epoch_and_seed_only():
  tables = _tables(np.random.default_rng(0))
  source = ClassPairedSource(tables, seed=0)
  first = source.pairing(0)
  for epoch in range(5):
    source.pairing(epoch)
  again = ClassPairedSource(tables, seed=0).pairing(0)
  np.testing.assert_array_equal(source.pairing(0), first)
  np.testing.assert_array_equal(again, first)
  assert (source.pairing(1) != first).any()
  assert (ClassPairedSource(tables, seed=1).pairing(0) != first).any()


def test_pairs_differ_between_epochs_not_only_their_order():
  labels = np.zeros(8, int)
  tables = {m: Table(np.arange(8.0), labels) for m in ("a", "b")}
  source = ClassPairedSource(tables, seed=0)
  pairs = [set(map(tuple, source.pairing(e).tolist())) for e in range(2)]
  assert pairs[0] != pairs[1]


def test_ids_are_the_class_or_the_instance():
  tables = _tables(np.random.default_rng(0))
  by_label = ClassPairedSource(tables, seed=0)
  by_instance = ClassPairedSource(tables, seed=0, ids="instance")
  np.testing.assert_array_equal(by_label.ids, by_label.labels)
  assert len(set(by_instance.ids.tolist())) == len(by_instance)


def test_inputs_and_spec_follow_the_tables():
  tables = _tables(np.random.default_rng(0))
  source = ClassPairedSource(tables, seed=0)
  assert source.modalities == ("m0", "m1", "m2")
  assert source.spec["m1"].shape == (2,)
  assert source.num_items("m1") == len(tables["m1"].labels)
  assert source.spec["m1"].dtype == np.float32
  items = np.array([2, 0], np.int32)
  inputs = source.inputs("m2", items)
  np.testing.assert_array_equal(inputs[:, 0], items)
  inputs[:] = -1
  assert (source.inputs("m2", items) >= 0).all()


def test_aligned_rows_stay_aligned():
  left, right = np.arange(12.0).reshape(4, 3), np.arange(4) * 10
  source = ArraySource({"left": left, "right": right}, labels=np.arange(4))
  for epoch in range(2):
    items = source.pairing(epoch)
    np.testing.assert_array_equal(
      items, np.repeat(np.arange(4)[:, np.newaxis], 2, axis=1)
    )
  assert source.where.all()
  np.testing.assert_array_equal(source.ids, np.arange(4))
  assert source.spec["right"].shape == ()


def test_labels_that_are_unknown_are_minus_one():
  assert (ArraySource({"a": np.zeros((2, 1))}).labels == -1).all()


def test_absent_rows_may_hold_anything_and_become_zero():
  values = np.array([[1.0], [np.nan], [3.0]])
  where = np.array([[True], [False], [True]])
  source = ArraySource({"a": values}, where=where)
  np.testing.assert_array_equal(
    source.inputs("a", np.arange(3)), [[1.0], [0.0], [3.0]]
  )
  assert np.isnan(values[1, 0])
  np.testing.assert_array_equal(source.where, where)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_data_that_is_not_finite_names_modality_and_item(bad):
  values = np.zeros((5, 2), np.float32)
  values[3, 1] = bad
  with pytest.raises(ValueError, match="'sound'.* item 3 .*1 of 5"):
    ArraySource({"image": np.zeros((5, 1)), "sound": values})
  labels = np.zeros(5, int)
  with pytest.raises(ValueError, match="'sound'.* item 3 .*1 of 5"):
    ClassPairedSource({"sound": Table(values, labels)}, seed=0)


def test_unequal_lengths_are_an_error():
  with pytest.raises(ValueError, match="'a': 3, 'b': 2"):
    ArraySource({"a": np.zeros((3, 1)), "b": np.zeros((2, 1))})
  with pytest.raises(ValueError, match=r"labels of 'a'.*\(3,\).*\(2,\)"):
    ClassPairedSource({"a": Table(np.zeros(3), np.zeros(2, int))}, seed=0)


def test_no_data_is_an_error():
  with pytest.raises(ValueError, match="no array"):
    ArraySource({})
  with pytest.raises(ValueError, match="'a': 0"):
    ArraySource({"a": np.zeros((0, 1))})
  with pytest.raises(ValueError, match="got none"):
    ClassPairedSource({}, seed=0)
  with pytest.raises(ValueError, match="'a' is empty"):
    empty = Table(np.zeros((0, 1)), np.zeros(0, int))
    ClassPairedSource({"a": empty}, seed=0)


def test_class_that_a_modality_lacks_is_an_error():
  tables = {
    "a": Table(np.zeros(3), np.array([0, 1, 2])),
    "b": Table(np.zeros(2), np.array([0, 2])),
  }
  with pytest.raises(ValueError, match=r"class 1 .* none in \['b'\]"):
    ClassPairedSource(tables, seed=0)


def test_masks_labels_and_ids_of_another_shape_or_type_are_an_error():
  arrays = {"a": np.zeros((3, 1)), "b": np.zeros((3, 1))}
  with pytest.raises(ValueError, match=r"where= of shape \(3, 2\)"):
    ArraySource(arrays, where=np.ones((3, 1), bool))
  with pytest.raises(ValueError, match="type bool"):
    ArraySource(arrays, where=np.ones((3, 2)))
  with pytest.raises(ValueError, match="labels= .*integer"):
    ArraySource(arrays, labels=np.zeros(3))
  with pytest.raises(ValueError, match="ids= "):
    ArraySource(arrays, ids=np.zeros(4, int))


def test_texts_that_are_not_encoded_are_an_error():
  with pytest.raises(ValueError, match="expected numbers in 'text'"):
    ArraySource({"text": np.array(["one", "two"])})


def test_unknown_kind_of_ids_is_an_error():
  with pytest.raises(ValueError, match='"label" or "instance"'):
    ClassPairedSource(_tables(np.random.default_rng(0)), seed=0, ids="row")
