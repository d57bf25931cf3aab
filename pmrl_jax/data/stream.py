"""The training stream at random access: a step -> its batch.

Everything random is a function of the seed and of the position in the stream,
so that a step has the same batch on any number of processes and workers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.mixture import Mixture, Order
from pmrl_jax.data.sources import Source, Spec

# A dictionary of arrays, b being the process's part of the batch:
#   inputs: {modality: [b, ...]}
#   where: bool [b, n], ids: int32 [b], labels: int32 [b], items: int32 [b, n]
#   failures: tuple of Failure, what could not be read
# and in evaluation valid: bool [b], false in rows that only fill up.
Batch = dict[str, Any]
# (rng, item) -> item of the same shape and type.
Transform = Callable[[np.random.Generator, np.ndarray], np.ndarray]

# What a stream of random numbers is for.
_TRANSFORMING, _READING = 0, 1


class TrainingStream:
  """Steps of training, `stream[step]`: this process's part of each batch."""

  def __init__(
    self,
    mixture: Mixture,
    *,
    batch_size: int,
    seed: int,
    transforms: Mapping[str, Sequence[Transform]],
    length_buckets: Mapping[str, Sequence[int]],
    slice_: slice,
  ):
    """See `training_iterator`; `slice_` is this process's part."""
    self._order = Order(mixture, seed=seed)
    self._sources = tuple(mixture.sources)
    self._specs = mixture.spec
    self._batch_size = batch_size
    self._seed = seed
    self._transforms = transforms
    self._buckets = _checked_buckets(length_buckets, self._specs)
    self._slice = slice_
    _check_transforms(self._specs, transforms)
    # Instances of different data sets are never the same thing.
    sizes = [int(source.ids.max()) + 1 for source in self._sources]
    self._first_ids = np.cumsum([0, *sizes[:-1]])

  @property
  def batch_bytes(self) -> int:
    """The size of this process's part of a batch."""
    rows = len(range(*self._slice.indices(self._batch_size)))
    return rows * sum(
      int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize
      for spec in self._specs.values()
    )

  def __len__(self) -> int:
    """As many steps as there are numbers."""
    return sys.maxsize

  def __getitem__(self, step: int) -> Batch:
    """Returns this process's part of the batch of one step."""
    everything = step * self._batch_size + np.arange(self._batch_size)
    batch = self._gather(everything[self._slice], list(self._specs))
    for modality, lengths in self._buckets.items():
      values = batch["inputs"][modality]
      longest = self._longest(modality, everything, values)
      length = next(each for each in lengths if each >= longest)
      batch["inputs"][modality] = values[:, :length]
    return batch

  def _gather(self, positions: np.ndarray, modalities: list[str]) -> Batch:
    places = self._order(positions)
    inputs = {name: self._empty(name, len(positions)) for name in modalities}
    where = np.zeros((len(positions), len(self._specs)), bool)
    items = np.full(where.shape, -1, np.int32)
    ids, labels = np.zeros((2, len(positions)), np.int32)
    failures: list[Failure] = []
    for number in np.unique(places.source).tolist():
      source = self._sources[number]
      rows = np.flatnonzero(places.source == number)
      instances = places.instance[rows]
      ids[rows] = source.ids[instances] + self._first_ids[number]
      labels[rows] = source.labels[instances]
      chosen = _items(source, places.epoch[rows], instances)
      bad = np.zeros(len(rows), bool)
      for column, modality in enumerate(source.modalities):
        if modality not in inputs:
          continue
        index = list(self._specs).index(modality)
        present = source.where[instances, column]
        values, broken = source.read(
          modality,
          chosen[:, column],
          present,
          self._generators(index, positions[rows], _READING),
        )
        bad[list(broken)] = True
        failures += broken.values()
        inputs[modality][rows] = values
        where[rows, index] = present
        items[rows, index] = chosen[:, column]
      # An example is used as a whole or not at all.
      where[rows[bad]] = False
    for modality, values in inputs.items():
      index = list(self._specs).index(modality)
      values[~where[:, index]] = 0
      self._transform(modality, index, values, where[:, index], positions)
    return {
      "inputs": inputs,
      "where": where,
      "ids": ids,
      "labels": labels,
      "items": items,
      "failures": tuple(failures),
    }

  def _empty(self, modality: str, num_rows: int) -> np.ndarray:
    shape, dtype = self._specs[modality]
    return np.zeros((num_rows, *shape), dtype)

  def _generators(
    self, index: int, positions: np.ndarray, purpose: int
  ) -> Callable[[int], np.random.Generator]:
    def generator(row: int) -> np.random.Generator:
      bits = np.random.Philox(
        key=np.array([self._seed, index], np.uint64),
        counter=np.array([0, 0, purpose, positions[row]], np.uint64),
      )
      return np.random.Generator(bits)

    return generator

  def _transform(
    self,
    modality: str,
    index: int,
    values: np.ndarray,
    where: np.ndarray,
    positions: np.ndarray,
  ) -> None:
    """Transforms every present row in place, each from its own stream.

    A counter-based generator makes the stream's position the counter's high
    word: setting it is ten times cheaper than seeding one per example.
    """
    transforms = self._transforms.get(modality, ())
    if not transforms:
      return
    bits = np.random.Philox(key=np.array([self._seed, index], np.uint64))
    rng = np.random.Generator(bits)
    fresh = bits.state
    fresh["state"]["counter"][2] = _TRANSFORMING
    for row in np.flatnonzero(where).tolist():
      fresh["state"]["counter"][3] = positions[row]
      bits.state = fresh
      value = values[row]
      for transform in transforms:
        value = transform(rng, value)
      values[row] = value

  def _longest(
    self, modality: str, everything: np.ndarray, values: np.ndarray
  ) -> int:
    """Returns the longest row of the global batch, in every process alike."""
    if len(values) < self._batch_size:
      values = self._gather(everything, [modality])["inputs"][modality]
    used = np.flatnonzero(values.any(axis=0))
    return int(used[-1]) + 1 if used.size else 0


def _items(
  source: Source, epochs: np.ndarray, instances: np.ndarray
) -> np.ndarray:
  items = np.empty((len(instances), len(source.modalities)), np.int32)
  for epoch in np.unique(epochs).tolist():
    rows = epochs == epoch
    items[rows] = source.pairing(epoch)[instances[rows]]
  return items


def _check_transforms(
  specs: Mapping[str, Spec], transforms: Mapping[str, Sequence[Transform]]
) -> None:
  for modality, functions in transforms.items():
    if modality not in specs:
      raise ValueError(
        f"expected transforms for modalities among {tuple(specs)}, got "
        f"{modality!r}"
      )
    item = np.zeros(*specs[modality])
    for transform in functions:
      result = transform(np.random.default_rng(0), item)
      if result.shape != item.shape or result.dtype != item.dtype:
        raise ValueError(
          f"expected transforms of {modality!r} to keep the item's shape "
          f"{item.shape} and type {item.dtype}, but {transform} returns "
          f"{result.shape} and {result.dtype}"
        )


def _checked_buckets(
  buckets: Mapping[str, Sequence[int]], specs: Mapping[str, Spec]
) -> dict[str, list[int]]:
  """Returns ascending lengths, the whole one included."""
  checked = {}
  for modality, lengths in buckets.items():
    if modality not in specs:
      raise ValueError(
        f"expected length buckets of modalities among {tuple(specs)}, got "
        f"{modality!r}"
      )
    shape, dtype = specs[modality]
    if len(shape) != 1 or np.dtype(dtype).kind not in "iu":
      raise ValueError(
        "length buckets are for rows of token ids (0: padding), but "
        f"{modality!r} has items of shape {shape} and type {dtype}"
      )
    if not all(0 < length <= shape[0] for length in lengths):
      raise ValueError(
        f"expected length buckets of {modality!r} from 1 to {shape[0]}, got "
        f"{list(lengths)}"
      )
    checked[modality] = sorted({*lengths, shape[0]})
  return checked
