"""Sources -> batches: shuffle, per-process slice, transforms, prefetch (grain).

Training reads one endless stream of positions: position p is instance
`permutation(epoch)[p % n]` of epoch `p // n`, n the number of instances. Step s
is the positions from `s * batch_size` on, and every process takes its slice.
So a step's batch is a function of the seed and the step alone, the same set on
any number of processes, and a step number is all the state there is.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from pmrl_jax.data.sources import Source

# A dictionary of arrays, b being the process's part of the batch:
#   inputs: {modality: [b, ...]}
#   where: bool [b, n], ids: int32 [b], labels: int32 [b], items: int32 [b, n]
# and in evaluation valid: bool [b], false in rows that only fill up.
Batch = dict[str, Any]
# (rng, item) -> item of the same shape and type.
Transform = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def training_iterator(
  source: Source,
  *,
  batch_size: int,
  seed: int,
  transforms: Mapping[str, Sequence[Transform]] | None = None,
  process_index: int | None = None,
  process_count: int | None = None,
  prefetch: int = 2,
) -> grain.DatasetIterator[Batch]:
  """Returns the endless iterator of this process's part of each batch.

  Every epoch is a fresh permutation with each instance exactly once; a batch
  may straddle two epochs. `get_state` and `set_state` (and grain's checkpoint
  handlers for orbax) continue with exactly the batches that would have come.

  Args:
    source: what to read.
    batch_size: the global number of instances per step.
    seed: the seed of the order and of the transforms, not negative.
    transforms: each modality's random transforms, applied in turn. Their
      randomness depends on the seed and the position in the stream only.
    process_index: which process this is; by default jax's.
    process_count: how many there are; by default jax's.
    prefetch: how many batches a background thread prepares ahead; 0 is none.

  Returns:
    An iterator over `Batch`.

  Raises:
    ValueError: if the batch does not divide by the processes, or a transform
      is for an unknown modality or changes the shape or type of an item.
  """
  stream = _Stream(
    source,
    batch_size=batch_size,
    seed=seed,
    transforms=transforms or {},
    slice_=_process_slice(batch_size, process_index, process_count),
  )
  options = grain.ReadOptions(
    num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch
  )
  return iter(grain.MapDataset.source(stream).to_iter_dataset(options))


def evaluation_batches(
  source: Source,
  *,
  batch_size: int,
  process_index: int | None = None,
  process_count: int | None = None,
) -> Iterator[Batch]:
  """Yields every instance of epoch 0 exactly once, in order.

  All batches have the same shapes: the last one is filled up with copies of
  the last instance, which `valid` marks.

  Args:
    source: what to read.
    batch_size: the global number of instances per batch.
    process_index: which process this is; by default jax's.
    process_count: how many there are; by default jax's.

  Returns:
    An iterator over `Batch`, with `valid`.

  Raises:
    ValueError: if the batch does not divide by the processes.
  """
  slice_ = _process_slice(batch_size, process_index, process_count)

  def batches():
    for start in range(0, len(source), batch_size):
      positions = start + np.arange(batch_size)[slice_]
      instances = np.minimum(positions, len(source) - 1)
      items = source.pairing(0)[instances]
      batch = _gather(source, instances, items)
      yield batch | {"valid": positions < len(source)}

  # Not a generator itself, so that mistakes show at the call.
  return batches()


class _Stream:
  """Random access to the training stream: step -> this process's batch."""

  def __init__(
    self,
    source: Source,
    *,
    batch_size: int,
    seed: int,
    transforms: Mapping[str, Sequence[Transform]],
    slice_: slice,
  ):
    if seed < 0:
      raise ValueError(f"expected a seed that is not negative, got {seed}")
    _check_transforms(source, transforms)
    self._source = source
    self._batch_size = batch_size
    self._seed = seed
    self._transforms = transforms
    self._slice = slice_
    # A batch may straddle two epochs.
    self._permutation = functools.lru_cache(maxsize=2)(self._permute)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> Batch:
    positions = (step * self._batch_size + np.arange(self._batch_size))[
      self._slice
    ]
    epochs, offsets = np.divmod(positions, len(self._source))
    instances = np.empty(len(positions), np.int64)
    items = np.empty((len(positions), len(self._source.modalities)), np.int32)
    for epoch in np.unique(epochs).tolist():
      rows = epochs == epoch
      instances[rows] = self._permutation(epoch)[offsets[rows]]
      items[rows] = self._source.pairing(epoch)[instances[rows]]
    batch = _gather(self._source, instances, items)
    for index, modality in enumerate(self._source.modalities):
      _transform(
        batch["inputs"][modality],
        self._transforms.get(modality, ()),
        key=(self._seed, index),
        positions=positions,
      )
    return batch

  def _permute(self, epoch: int) -> np.ndarray:
    # The last number keeps this stream apart from the pairing's.
    rng = np.random.default_rng([self._seed, epoch, 1])
    return rng.permutation(len(self._source))


def _gather(source: Source, instances: np.ndarray, items: np.ndarray) -> Batch:
  return {
    "inputs": {
      modality: source.inputs(modality, items[:, column])
      for column, modality in enumerate(source.modalities)
    },
    "where": source.where[instances],
    "ids": source.ids[instances],
    "labels": source.labels[instances],
    "items": items,
  }


def _transform(
  values: np.ndarray,
  transforms: Sequence[Transform],
  *,
  key: tuple[int, int],
  positions: np.ndarray,
) -> None:
  """Transforms every row in place, each from its own random stream.

  A counter-based generator makes the stream's position the counter's high
  word: setting it is ten times cheaper than seeding a generator per example.
  """
  if not transforms:
    return
  bits = np.random.Philox(key=np.array(key, np.uint64))
  rng = np.random.Generator(bits)
  fresh = bits.state
  for row, position in enumerate(positions.tolist()):
    fresh["state"]["counter"][3] = position
    bits.state = fresh
    value = values[row]
    for transform in transforms:
      value = transform(rng, value)
    values[row] = value


def _check_transforms(
  source: Source, transforms: Mapping[str, Sequence[Transform]]
) -> None:
  for modality, functions in transforms.items():
    if modality not in source.modalities:
      raise ValueError(
        f"expected transforms for modalities among {source.modalities}, got "
        f"{modality!r}"
      )
    item = source.inputs(modality, np.zeros(1, np.int32))[0]
    for transform in functions:
      result = transform(np.random.default_rng(0), item)
      if result.shape != item.shape or result.dtype != item.dtype:
        raise ValueError(
          f"expected transforms of {modality!r} to keep the item's shape "
          f"{item.shape} and type {item.dtype}, but {transform} returns "
          f"{result.shape} and {result.dtype}"
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
