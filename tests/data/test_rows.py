"""Rows decoded on demand: captions, ids, failures, workers."""

import json

import numpy as np
import pytest

from pmrl_jax.data import (
  FailureLog,
  RowSource,
  Spec,
  TooManyFailuresError,
  evaluation_batches,
  first_instances,
  training_iterator,
)
from pmrl_jax.data.failures import Failure
from pmrl_jax.data.groups import group_ids

ALONE = {"process_index": 0, "process_count": 1}


class Table:
  """Rows in memory, with a few that cannot be read."""

  kinds = {"clip": "vector", "caption": "text"}

  def __init__(self, num_rows=20, broken=(), absent=()):
    self.ids = [f"row {index}" for index in range(num_rows)]
    self.labels = np.arange(num_rows) % 3
    self.sources = None
    self.broken = broken
    self.where = np.ones((num_rows, 2), bool)
    self.where[list(absent), 0] = False

  def value(self, row, modality):
    if modality == "caption":
      return [f"{row} {index}" for index in range(row % 4)] or None
    if row in self.broken:
      raise OSError(f"clip {row} is torn")
    return np.float32([row])


class Vector:
  """Decodes a number, and adds a random one in training."""

  spec = Spec((1,), np.dtype(np.float32))

  def __call__(self, rng, value):
    noise = 0.0 if rng is None else rng.random(dtype=np.float32) / 2
    return value + np.float32(noise)


class Numbers:
  """Decodes the two numbers of a caption."""

  spec = Spec((2,), np.dtype(np.int32))

  def __call__(self, rng, value):
    return np.int32(value.split())


INPUTS = {"clip": Vector(), "caption": Numbers()}


def source(captions="draw", **options):
  table = Table(**options)
  table.where[::4, 1] = False  # rows without a caption
  return RowSource(table, INPUTS, captions=captions, seed=1)


def training(rows, batch_size=8, **options):
  return training_iterator(
    rows, batch_size=batch_size, seed=0, **ALONE, **options
  )


def take(iterator, count):
  batches = [next(iterator) for _ in range(count)]
  iterator.close()
  return batches


def assert_same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert batch["failures"] == other["failures"]
    for name in ("where", "ids", "labels", "items"):
      np.testing.assert_array_equal(batch[name], other[name])
    for name in INPUTS:
      np.testing.assert_array_equal(
        batch["inputs"][name], other["inputs"][name]
      )


def test_training_draws_one_caption_of_each_row_and_in_time_all():
  rows = source()
  assert len(rows) == 20
  seen = set()
  for epoch in range(30):
    captions = rows.pairing(epoch)[:, 1][rows.where[:, 1]]
    assert len(set(captions.tolist())) == 15
    seen.update(captions.tolist())
  assert seen == set(range(rows.num_items("caption")))
  assert not np.array_equal(rows.pairing(0), rows.pairing(1))


def test_an_evaluation_has_every_caption_and_reads_every_clip_once():
  rows = source("all")
  assert len(rows) == 5 + 5 * (1 + 2 + 3)
  batches = list(
    evaluation_batches(rows, batch_size=7, distinct_items=True, **ALONE)
  )
  where = np.concatenate([b["where"][b["valid"]] for b in batches])
  clips = np.concatenate([b["inputs"]["clip"][b["valid"]] for b in batches])
  texts = np.concatenate([b["inputs"]["caption"][b["valid"]] for b in batches])
  np.testing.assert_array_equal(clips[where[:, 0], 0], np.arange(20))
  expected = [(row, index) for row in range(20) for index in range(row % 4)]
  np.testing.assert_array_equal(texts[where[:, 1]], expected)
  # What was read once belongs to every instance of the row.
  first = first_instances(rows)
  np.testing.assert_array_equal(
    clips[first[:, 0], 0].astype(int),
    [int(name.split()[1]) for name in rows.names],
  )


def test_what_cannot_be_read_leaves_an_absent_row_and_a_word_why():
  rows = source(broken=(5, 7))
  batches = take(training(rows), 5)  # two epochs
  names = [f.name for batch in batches for f in batch["failures"]]
  assert sorted(names) == ["row 5", "row 5", "row 7", "row 7"]
  assert batches[0]["inputs"]["clip"].dtype == np.float32
  reasons = {f.reason for batch in batches for f in batch["failures"]}
  assert reasons == {"clip 5 is torn", "clip 7 is torn"}
  for batch in batches:
    rows_of = batch["items"][:, 0]
    bad = np.isin(rows_of, [5, 7])
    assert not batch["where"][bad].any()
    assert not batch["inputs"]["caption"][bad].any()
    good = batch["inputs"]["clip"][~bad, 0]
    np.testing.assert_array_equal(np.floor(good), rows_of[~bad])
  # Nothing took their place: each epoch has every row once.
  items = np.concatenate([batch["items"][:, 0] for batch in batches])
  np.testing.assert_array_equal(np.sort(items[:20]), np.arange(20))


def test_an_evaluation_refuses_what_cannot_be_read_unless_told():
  rows = source("all", broken=(6,))
  with pytest.raises(ValueError, match="row 6, clip: clip 6 is torn"):
    list(evaluation_batches(rows, batch_size=8, **ALONE))
  batches = list(
    evaluation_batches(rows, batch_size=8, allow_failures=True, **ALONE)
  )
  absent = np.concatenate(
    [b["items"][~b["where"][:, 0] & b["valid"], 0] for b in batches]
  )
  np.testing.assert_array_equal(absent, [6, 6])  # its two captions


@pytest.mark.parametrize("options", [{"num_threads": 3}, {"num_workers": 2}])
def test_batches_do_not_depend_on_who_makes_them(options):
  expected = take(training(source(broken=(5,))), 6)
  rows = source(broken=(5,))
  assert_same(take(training(rows, prefetch=4, **options), 6), expected)
  # Nor does the state: it is the step.
  iterator = training(rows, prefetch=4, **options)
  iterator.set_state({"next_index": 4})
  assert_same(take(iterator, 2), expected[4:])


def test_processes_share_a_step_and_its_randomness():
  whole = take(training(source()), 4)
  parts = [
    take(
      training_iterator(
        source(), batch_size=8, seed=0, process_index=index, process_count=4
      ),
      4,
    )
    for index in range(4)
  ]
  for step, batch in enumerate(whole):
    for name in INPUTS:
      joined = np.concatenate([part[step]["inputs"][name] for part in parts])
      np.testing.assert_array_equal(joined, batch["inputs"][name])


def test_length_buckets_hold_the_longest_row_of_the_global_batch():
  class Ids(Numbers):
    spec = Spec((12,), np.dtype(np.int32))

    def __call__(self, rng, value):
      row, _ = value.split()
      ids = np.zeros(12, np.int32)
      ids[: int(row) % 12 + 1] = 9
      return ids

  rows = RowSource(
    Table(), {"clip": Vector(), "caption": Ids()}, captions="draw"
  )
  options = {"length_buckets": {"caption": [2, 6]}}
  lengths = set()
  for batch in take(training(rows, batch_size=2, **options), 40):
    length = batch["inputs"]["caption"].shape[1]
    longest = int((batch["inputs"]["caption"] != 0).sum(axis=1).max())
    assert length == min(each for each in (2, 6, 12) if each >= longest)
    lengths.add(length)
  assert lengths == {2, 6, 12}
  # A process that holds a short row only cuts as the others do.
  parts = [
    take(
      training_iterator(
        rows,
        batch_size=2,
        seed=0,
        process_index=index,
        process_count=2,
        **options,
      ),
      10,
    )
    for index in range(2)
  ]
  for one, other in zip(*parts):
    shapes = [part["inputs"]["caption"].shape for part in (one, other)]
    assert shapes[0] == shapes[1]


def test_memory_that_batches_may_take_is_capped():
  with pytest.raises(ValueError, match="lower prefetch"):
    training(source(), prefetch=4, max_bytes=100)
  take(training(source(), prefetch=4, max_bytes=1000), 1)


def test_rows_with_a_source_or_a_text_in_common_are_one_thing():
  ids = group_ids(
    6,
    sources=["film", "", "film", "", "", "other"],
    texts=[[["a"], ["b"], ["c"], ["B ", "x"], ["d"], ["d"]]],
  )
  np.testing.assert_array_equal(ids, [0, 1, 0, 1, 2, 2])


def test_the_log_has_each_failure_once_and_stops_the_run(tmp_path):
  path = tmp_path / "bad_examples.jsonl"
  log = FailureLog(path, num_examples=100, max_share=0.02)
  assert not path.exists()
  first, second = (Failure(name, "clip", "torn") for name in "ab")
  log.add([first, first])
  log.add([first, second])
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  assert [line["name"] for line in lines] == ["a", "b"]
  # A later session goes on counting.
  log = FailureLog(path, num_examples=100, max_share=0.02)
  assert log.num_bad == 2
  with pytest.raises(TooManyFailuresError, match="3 of 100 examples"):
    log.add([Failure("c", "clip", "torn")])
  path.write_text("nonsense\n")
  with pytest.raises(ValueError, match="no list of bad examples"):
    FailureLog(path, num_examples=100, max_share=0.02)
