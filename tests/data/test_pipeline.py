"""The stream of batches: order, slices, state, transforms, evaluation."""

import functools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from pmrl_jax.data import (
  ArraySource,
  ClassPairedSource,
  Table,
  evaluation_batches,
  tabular,
  training_iterator,
)

ALONE = {"process_index": 0, "process_count": 1}


def _aligned(num_rows):
  rows = np.arange(num_rows, dtype=np.float32)
  return ArraySource(
    {"a": rows[:, np.newaxis], "b": np.stack([rows, -rows], axis=1)},
    labels=np.arange(num_rows) % 3,
  )


def _paired():
  labels = {"a": np.arange(30) % 3, "b": np.arange(12) % 3}
  return ClassPairedSource(
    {m: Table(np.arange(len(y), dtype=np.float32), y)
     for m, y in labels.items()},
    seed=5,
    ids="instance",
  )  # fmt: skip


def _add_uniform(rng, item):
  return item + rng.random(item.shape, dtype=np.float32)


def _take(iterator, count):
  return [next(iterator) for _ in range(count)]


def _assert_equal(batch, expected):
  assert batch.keys() == expected.keys()
  for key, value in expected.items():
    if key == "inputs":
      _assert_equal(batch[key], value)
    elif key == "failures":
      assert batch[key] == value
    else:
      assert batch[key].dtype == value.dtype
      np.testing.assert_array_equal(batch[key], value)


def _random_case(seed):
  rng = np.random.default_rng(seed)
  num_rows, processes = int(rng.integers(1, 40)), int(rng.integers(1, 9))
  return num_rows, processes, processes * int(rng.integers(1, 9))


@pytest.mark.parametrize("seed", range(25))
def test_every_instance_appears_once_per_epoch_whoever_reads_it(seed):
  num_rows, processes, batch_size = _random_case(seed)
  iterators = [
    training_iterator(
      _aligned(num_rows),
      batch_size=batch_size,
      seed=seed,
      process_index=index,
      process_count=processes,
    )
    for index in range(processes)
  ]
  num_epochs = 3
  num_steps = -(-num_epochs * num_rows // batch_size)
  stream = []
  for _ in range(num_steps):
    slices = [next(iterator)["ids"] for iterator in iterators]
    assert {len(ids) for ids in slices} == {batch_size // processes}
    stream.extend(np.concatenate(slices).tolist())
  for epoch in range(num_epochs):
    ids = stream[epoch * num_rows : (epoch + 1) * num_rows]
    assert sorted(ids) == list(range(num_rows))


@pytest.mark.parametrize("processes", [2, 8])
def test_processes_share_the_batch_that_one_would_read(processes):
  arguments = {"batch_size": 16, "seed": 3, "transforms": {"a": [_add_uniform]}}
  alone = training_iterator(_paired(), **arguments, **ALONE)
  parts = [
    training_iterator(
      _paired(), **arguments, process_index=i, process_count=processes
    )
    for i in range(processes)
  ]
  for _ in range(5):
    expected = next(alone)
    slices = [next(part) for part in parts]
    for key in ("where", "ids", "labels", "items"):
      whole = np.concatenate([part[key] for part in slices])
      np.testing.assert_array_equal(whole, expected[key])
    for modality, values in expected["inputs"].items():
      whole = np.concatenate([part["inputs"][modality] for part in slices])
      np.testing.assert_array_equal(whole, values)


def test_epochs_are_in_different_order_and_seeds_too():
  def epochs(seed):
    iterator = training_iterator(
      _aligned(24), batch_size=24, seed=seed, **ALONE
    )
    return [batch["ids"].tolist() for batch in _take(iterator, 2)]

  first, second = epochs(0)
  assert first != second
  assert first != sorted(first)
  assert epochs(1)[0] != first
  assert epochs(0) == [first, second]


def test_batch_agrees_with_its_source():
  source = _paired()
  for batch in _take(
    training_iterator(source, batch_size=8, seed=0, **ALONE), 12
  ):
    assert list(batch["inputs"]) == list(source.modalities)
    assert batch["items"].shape == (8, 2) and batch["items"].dtype == np.int32
    assert batch["where"].shape == (8, 2) and batch["where"].all()
    assert batch["ids"].dtype == batch["labels"].dtype == np.int32
    for column, modality in enumerate(source.modalities):
      items = batch["items"][:, column]
      np.testing.assert_array_equal(batch["inputs"][modality], items)
      np.testing.assert_array_equal(batch["labels"], items % 3)
    np.testing.assert_array_equal(source.labels[batch["ids"]], batch["labels"])


def test_each_epoch_of_the_stream_has_its_own_pairing():
  source = _paired()
  iterator = training_iterator(source, batch_size=7, seed=0, **ALONE)
  batches = _take(iterator, 10)
  items = np.concatenate([batch["items"] for batch in batches])
  for epoch in range(2):
    part = items[epoch * len(source) : (epoch + 1) * len(source)]
    assert sorted(map(tuple, part.tolist())) == sorted(
      map(tuple, source.pairing(epoch).tolist())
    )


def test_presence_follows_the_rows():
  where = np.array([[True, True], [True, False], [False, True]])
  arrays = {"a": np.ones((3, 1)), "b": np.ones((3, 1))}
  source = ArraySource(arrays, where=where)
  iterator = training_iterator(source, batch_size=3, seed=0, **ALONE)
  for batch in _take(iterator, 3):
    np.testing.assert_array_equal(batch["where"], where[batch["ids"]])
    np.testing.assert_array_equal(
      batch["inputs"]["b"][:, 0], batch["where"][:, 1].astype(float)
    )


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_restored_state_continues_with_the_same_batches(prefetch):
  def start():
    return training_iterator(
      _paired(),
      batch_size=8,
      seed=1,
      transforms={"b": [_add_uniform]},
      prefetch=prefetch,
      **ALONE,
    )

  undisturbed = _take(start(), 12)
  iterator = start()
  _take(iterator, 5)
  state = iterator.get_state()
  _take(iterator, 3)
  fresh = start()
  fresh.set_state(state)
  iterator.set_state(state)
  for expected in undisturbed[5:]:
    _assert_equal(next(fresh), expected)
    _assert_equal(next(iterator), expected)


def test_state_passes_through_an_orbax_checkpoint(tmp_path):
  def start():
    return training_iterator(_paired(), batch_size=8, seed=1, **ALONE)

  iterator = start()
  _take(iterator, 4)
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.save(
      4,
      args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(iterator)),
    )
  expected = _take(iterator, 3)
  restored = start()
  with ocp.CheckpointManager(tmp_path) as manager:
    manager.restore(
      4,
      args=ocp.args.Composite(
        data=grain.checkpoint.CheckpointRestore(restored)
      ),
    )
  for batch, other in zip(_take(restored, 3), expected, strict=True):
    _assert_equal(batch, other)


def test_transforms_depend_on_the_place_in_the_stream_only():
  """Also not on the batch size, nor on which other modality is changed."""
  source = _aligned(16)

  def noise(batch_size, transforms):
    iterator = training_iterator(
      source, batch_size=batch_size, seed=2, transforms=transforms, **ALONE
    )
    batches = _take(iterator, 48 // batch_size)
    noisy = np.concatenate([batch["inputs"]["b"] for batch in batches])
    ids = np.concatenate([batch["ids"] for batch in batches])
    return noisy - source.inputs("b", ids)

  alone = noise(16, {"b": [_add_uniform]})
  np.testing.assert_array_equal(noise(8, {"b": [_add_uniform]}), alone)
  both = noise(16, {"a": [_add_uniform], "b": [_add_uniform]})
  np.testing.assert_array_equal(both, alone)
  # No two positions share their noise, nor do the epochs.
  assert len(np.unique(alone.round(4), axis=0)) == 48


def test_transforms_of_two_modalities_differ():
  source = ArraySource({m: np.zeros((8, 4), np.float32) for m in ("a", "b")})
  transforms = {"a": [_add_uniform], "b": [_add_uniform]}
  batch = next(
    training_iterator(
      source, batch_size=8, seed=0, transforms=transforms, **ALONE
    )
  )
  assert not np.isclose(batch["inputs"]["a"], batch["inputs"]["b"]).any()


def test_transforms_apply_in_turn():
  def double(rng, item):
    return 2 * item

  def increment(rng, item):
    return item + 1

  source = _aligned(6)
  batch = next(
    training_iterator(
      source,
      batch_size=6,
      seed=0,
      transforms={"a": [increment, double]},
      **ALONE,
    )
  )
  np.testing.assert_array_equal(
    batch["inputs"]["a"][:, 0], 2 * (batch["ids"] + 1)
  )


def test_transforms_leave_the_source_as_it_is():
  source = _aligned(6)
  transform = functools.partial(tabular.random_gaussian_noise, std=1.0)
  iterator = training_iterator(
    source, batch_size=6, seed=0, transforms={"a": [transform]}, **ALONE
  )
  _take(iterator, 3)
  np.testing.assert_array_equal(
    source.inputs("a", np.arange(6))[:, 0], np.arange(6)
  )


@pytest.mark.parametrize("seed", range(25))
def test_evaluation_covers_everything_once_in_order(seed):
  num_rows, processes, batch_size = _random_case(seed)
  source = _aligned(num_rows)
  streams = [
    list(
      evaluation_batches(
        source,
        batch_size=batch_size,
        process_index=index,
        process_count=processes,
      )
    )
    for index in range(processes)
  ]
  ids = []
  for parts in zip(*streams, strict=True):
    for part in parts:
      assert part["valid"].shape == (batch_size // processes,)
      assert part["inputs"]["b"].shape == (batch_size // processes, 2)
      ids.extend(part["ids"][part["valid"]].tolist())
  assert ids == list(range(num_rows))
  assert len(streams[0]) == -(-num_rows // batch_size)


def test_evaluation_reads_the_pairing_of_epoch_0_without_transforms():
  source = _paired()
  batches = list(evaluation_batches(source, batch_size=8, **ALONE))
  items = np.concatenate([batch["items"] for batch in batches])
  valid = np.concatenate([batch["valid"] for batch in batches])
  np.testing.assert_array_equal(items[valid], source.pairing(0))
  for batch in batches:
    np.testing.assert_array_equal(batch["inputs"]["b"], batch["items"][:, 1])


@pytest.mark.parametrize("function", [training_iterator, evaluation_batches])
def test_batch_that_does_not_divide_is_an_error(function):
  more = {"seed": 0} if function is training_iterator else {}
  for batch_size in (0, -4, 6):
    with pytest.raises(ValueError, match=f"divides by 4.*got {batch_size}"):
      function(
        _aligned(5),
        batch_size=batch_size,
        process_index=0,
        process_count=4,
        **more,
      )


def test_process_index_out_of_range_or_alone_is_an_error():
  with pytest.raises(ValueError, match="from 0 to 1, got 2"):
    evaluation_batches(
      _aligned(5), batch_size=2, process_index=2, process_count=2
    )
  with pytest.raises(ValueError, match="both or none"):
    evaluation_batches(_aligned(5), batch_size=2, process_index=0)


def test_process_defaults_to_that_of_jax():
  batch = next(training_iterator(_aligned(5), batch_size=10, seed=0))
  assert len(batch["ids"]) == 10


def test_negative_seed_is_an_error():
  with pytest.raises(ValueError, match="not negative, got -1"):
    training_iterator(_aligned(5), batch_size=2, seed=-1, **ALONE)


def test_transform_of_an_unknown_modality_is_an_error():
  with pytest.raises(ValueError, match="'c'"):
    training_iterator(
      _aligned(5),
      batch_size=2,
      seed=0,
      transforms={"c": [_add_uniform]},
      **ALONE,
    )


@pytest.mark.parametrize(
  "transform",
  [lambda rng, item: item[:1], lambda rng, item: item.astype(np.float64)],
)
def test_transform_that_changes_shape_or_type_is_an_error(transform):
  with pytest.raises(ValueError, match="keep the item's shape"):
    training_iterator(
      _aligned(5),
      batch_size=2,
      seed=0,
      transforms={"b": [transform]},
      **ALONE,
    )
