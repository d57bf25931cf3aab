"""Sources -> batches: shuffle, per-process slice, transforms, prefetch (grain).

Training reads one endless stream of positions: position p is instance
`permutation(epoch)[p % n]` of epoch `p // n`, n the number of instances. Step s
is the positions from `s * batch_size` on, and every process takes its slice.
So a step's batch is a function of the seed and the step alone, the same set on
any number of processes, and a step number is all the state there is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.mixture import Mixture
from pmrl_jax.data.sources import Source
from pmrl_jax.data.stream import Batch, TrainingStream, Transform

__all__ = ["Batch", "Transform", "evaluation_batches", "training_iterator"]


def training_iterator(
  source: Source | Mixture,
  *,
  batch_size: int,
  seed: int,
  transforms: Mapping[str, Sequence[Transform]] | None = None,
  length_buckets: Mapping[str, Sequence[int]] | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
  prefetch: int = 2,
  num_threads: int = 1,
  num_workers: int = 0,
  max_bytes: int | None = None,
) -> grain.DatasetIterator[Batch]:
  """Returns the endless iterator of this process's part of each batch.

  Every epoch is a fresh permutation with each instance exactly once; a batch
  may straddle two epochs. `get_state` and `set_state` (and grain's checkpoint
  handlers for orbax) continue with exactly the batches that would have come,
  whatever the number of processes, threads and workers was and is.

  An example that cannot be read is a row with nothing present and has an entry
  in the batch's `failures`; no other example takes its place.

  Args:
    source: what to read, or a mixture of sources.
    batch_size: the global number of instances per step.
    seed: the seed of the order and of all that is random, not negative.
    transforms: each modality's random transforms, applied in turn. Their
      randomness depends on the seed and the position in the stream only.
    length_buckets: for rows of token ids, lengths to which the rows of a batch
      may be cut: the shortest that holds the longest row of the global batch.
      A step function is compiled once for each.
    process_index: which process this is; by default jax's.
    process_count: how many there are; by default jax's.
    prefetch: how many batches are prepared ahead; 0 is none.
    num_threads: how many threads prepare them, each a batch of its own.
    num_workers: how many worker processes prepare them instead; 0 is none.
    max_bytes: the memory that batches in the making may take; None: any.

  Returns:
    An iterator over `Batch`.

  Raises:
    ValueError: if the batch does not divide by the processes, a transform is
      for an unknown modality or changes the shape or type of an item, the
      sources do not fit together, or the batches take too much memory.
  """
  if isinstance(source, Source):
    source = Mixture([source], [1.0])
  stream = TrainingStream(
    source,
    batch_size=batch_size,
    seed=seed,
    transforms=transforms or {},
    length_buckets=length_buckets or {},
    slice_=_process_slice(batch_size, process_index, process_count),
  )
  for name, value, least in (
    ("prefetch", prefetch, 0),
    ("num_threads", num_threads, 1),
    ("num_workers", num_workers, 0),
  ):
    if value < least:
      raise ValueError(f"expected {name} to be at least {least}, got {value}")
  in_the_making = prefetch + (num_workers or num_threads)
  if max_bytes is not None and in_the_making * stream.batch_bytes > max_bytes:
    raise ValueError(
      f"{in_the_making} batches of {stream.batch_bytes:,} bytes in the making "
      f"take more than the {max_bytes:,} bytes that are allowed; lower "
      "prefetch, num_threads, num_workers or the batch size"
    )
  return _TrainingIterator(stream, prefetch, num_threads, num_workers)


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  process_index: int | None = None,
  process_count: int | None = None,
  distinct_items: bool = False,
  allow_failures: bool = False,
) -> Iterator[Batch]:
  """Yields every instance of epoch 0 exactly once, in order.

  All batches have the same shapes: the last one is filled up with copies of
  the last instance, which `valid` marks.

  Args:
    source: what to read.
    batch_size: the global number of instances per batch.
    process_index: which process this is; by default jax's.
    process_count: how many there are; by default jax's.
    distinct_items: whether an item that several instances share, as one video
      with ten captions, is only read for the first of them (see
      `first_instances`); it is absent from the others, by `where`.
    allow_failures: whether an item that cannot be read is absent, with an entry
      in the batch's `failures`, instead of an error.

  Returns:
    An iterator over `Batch`, with `valid`.

  Raises:
    ValueError: if the batch does not divide by the processes or, on the way,
      an item cannot be read.
  """
  slice_ = _process_slice(batch_size, process_index, process_count)
  items = source.pairing(0)
  to_read = source.where
  if distinct_items:
    rows = np.arange(len(source))[:, np.newaxis]
    to_read = to_read & (first_instances(source) == rows)

  def batches():
    for start in range(0, len(source), batch_size):
      positions = start + np.arange(batch_size)[slice_]
      valid = positions < len(source)
      instances = np.minimum(positions, len(source) - 1)
      batch = _gather(source, instances, items[instances], to_read[instances])
      if batch["failures"] and not allow_failures:
        raise ValueError(_describe(batch["failures"]))
      yield batch | {"valid": valid}

  # Not a generator itself, so that mistakes show at the call.
  return batches()


def first_instances(source: Source) -> np.ndarray:
  """Returns the first instance of epoch 0 that has the same item.

  Args:
    source: any source.

  Returns:
    int `[instance, modality]`; -1 where the modality is absent.
  """
  items = source.pairing(0)
  first = np.full(items.shape, -1)
  for column in range(items.shape[1]):
    rows = np.flatnonzero(source.where[:, column])
    _, index, inverse = np.unique(
      items[rows, column], return_index=True, return_inverse=True
    )
    first[rows, column] = rows[index][inverse]
  return first


class _TrainingIterator(grain.DatasetIterator):
  """Batches from a step on, prepared ahead; the step is all its state."""

  def __init__(
    self,
    stream: TrainingStream,
    prefetch: int,
    num_threads: int,
    num_workers: int,
  ):
    super().__init__()
    self._stream = stream
    self._prefetch = prefetch
    self._num_threads = num_threads
    self._num_workers = num_workers
    self._step = 0
    self._batches: grain.DatasetIterator | None = None

  def __next__(self) -> Batch:
    if self._batches is None:
      self._batches = self._start()
    batch = next(self._batches)
    self._step += 1
    return batch

  def get_state(self) -> dict[str, Any]:
    return {"next_index": self._step}

  def set_state(self, state: dict[str, Any]) -> None:
    self.close()
    self._step = int(state["next_index"])

  def start_prefetch(self) -> None:
    if self._batches is None:
      self._batches = self._start()
    self._batches.start_prefetch()

  def close(self) -> None:
    if self._batches is not None:
      self._batches.close()
    self._batches = None

  def _start(self) -> grain.DatasetIterator:
    steps = grain.MapDataset.source(_From(self._stream, self._step))
    if self._num_workers:
      _parse_no_flags()
      single = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
      share = max(1, self._prefetch // self._num_workers)
      return iter(
        steps.to_iter_dataset(single).mp_prefetch(
          grain.MultiprocessingOptions(
            num_workers=self._num_workers, per_worker_buffer_size=share
          )
        )
      )
    threads = self._num_threads if self._prefetch else 0
    return iter(
      steps.to_iter_dataset(
        grain.ReadOptions(
          num_threads=threads, prefetch_buffer_size=self._prefetch
        )
      )
    )


def _parse_no_flags() -> None:
  """Lets grain read its flags in a program that has none, as a notebook."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()


class _From:
  """The stream from a step on."""

  def __init__(self, stream: TrainingStream, start: int):
    self._stream = stream
    self._start = start

  def __len__(self) -> int:
    return len(self._stream) - self._start

  def __getitem__(self, step: int) -> Batch:
    return self._stream[self._start + step]


def _gather(
  source: Source, instances: np.ndarray, items: np.ndarray, where: np.ndarray
) -> Batch:
  """Reads instances of an evaluation, of which nothing is random."""
  where = where.copy()
  inputs: dict[str, np.ndarray] = {}
  failures: list[Failure] = []
  for column, modality in enumerate(source.modalities):
    inputs[modality], broken = source.read(
      modality, items[:, column], where[:, column]
    )
    where[list(broken), column] = False
    failures += broken.values()
  return {
    "inputs": inputs,
    "where": where,
    "ids": source.ids[instances],
    "labels": source.labels[instances],
    "items": items,
    "failures": tuple(dict.fromkeys(failures)),
  }


def _describe(failures: Sequence[Failure]) -> str:
  shown = "\n".join(f"  {f.name}, {f.modality}: {f.reason}" for f in failures)
  return (
    f"{len(failures)} items of the evaluation cannot be read:\n{shown}\nRepair "
    "them, or allow that items are missing"
  )


def _process_slice(
  batch_size: int, process_index: int | None, process_count: int | None
) -> slice:
  """Returns the part of a global batch that belongs to a process."""
  if (process_index is None) != (process_count is None):
    raise ValueError(
      "expected both or none of process_index and process_count, got "
      f"{process_index} and {process_count}"
    )
  if process_index is None or process_count is None:
    # The only use of jax in this room.
    import jax

    process_index, process_count = jax.process_index(), jax.process_count()
  if not 0 <= process_index < process_count:
    raise ValueError(
      f"expected a process_index from 0 to {process_count - 1}, got "
      f"{process_index}"
    )
  if batch_size <= 0 or batch_size % process_count:
    raise ValueError(
      f"expected a positive batch size that divides by {process_count} "
      f"processes, got {batch_size}"
    )
  size = batch_size // process_count
  return slice(process_index * size, (process_index + 1) * size)
