"""Sources of instances: which items of which modality belong together.

A source has the items of every modality. An instance is one item of each;
`pairing` says which. Everything is a function of the source and the
epoch, so any process can look up any instance.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.recent import Recent


class Spec(NamedTuple):
  """The shape and type of one item."""

  shape: tuple[int, ...]
  dtype: np.dtype


class Table(NamedTuple):
  """The items of one modality."""

  values: np.ndarray  # [item, ...]
  labels: np.ndarray  # int [item]


class Source(abc.ABC):
  """What `training_iterator` and `evaluation_batches` read from.

  Attributes:
    modalities: their names, in the order of every stacked array.
    labels: int32 `[instance]`, the classes; -1 where there are none.
    ids: int32 `[instance]`; instances with the same id are the same thing and
      never each other's negatives.
    where: bool `[instance, modality]`, which items are present.
    notes: sentences on what loading did to the data, such as cropping.
  """

  def __init__(
    self,
    modalities: Sequence[str],
    *,
    labels: np.ndarray,
    ids: np.ndarray,
    where: np.ndarray,
    notes: Sequence[str] = (),
  ):
    """Keeps the checked arrays; use a subclass."""
    self.modalities = tuple(modalities)
    self.labels = labels.astype(np.int32)
    self.ids = ids.astype(np.int32)
    self.where = where
    self.notes = tuple(notes)

  def __len__(self) -> int:
    """The number of instances in an epoch."""
    return len(self.labels)

  @property
  @abc.abstractmethod
  def spec(self) -> dict[str, Spec]:
    """The shape and type of one item of every modality."""

  @abc.abstractmethod
  def num_items(self, modality: str) -> int:
    """The number of items of one modality; they are numbered from 0."""

  @abc.abstractmethod
  def pairing(self, epoch: int) -> np.ndarray:
    """Returns the item of every modality: int32 `[instance, modality]`."""

  @abc.abstractmethod
  def read(
    self,
    modality: str,
    items: np.ndarray,
    where: np.ndarray,
    generator: Callable[[int], np.random.Generator] | None = None,
  ) -> tuple[np.ndarray, dict[int, Failure]]:
    """Reads items of one modality.

    Args:
      modality: one of `modalities`.
      items: int `[batch]`, a column of a batch's `items`.
      where: bool `[batch]`, which of them to read.
      generator: gives each row's source of randomness, where reading an item
        chooses something, as the frames of a video; None: nothing is random.

    Returns:
      A copy `[batch, ...]` of the items, whatever where they were not read, and
      why a row could not be read, for each that could not.
    """

  def inputs(self, modality: str, items: np.ndarray) -> np.ndarray:
    """Returns a copy of items of one modality, as an evaluation reads them.

    Args:
      modality: one of `modalities`.
      items: int `[batch]`, numbers of items.

    Returns:
      `[batch, ...]`.

    Raises:
      ValueError: if an item cannot be read.
    """
    values, failures = self.read(modality, items, np.ones(len(items), bool))
    for failure in failures.values():
      raise ValueError(f"{failure.name}, {modality}: {failure.reason}")
    return values


class _InMemory(Source):
  """A source whose items are all decoded and in memory."""

  def __init__(self, values: Mapping[str, np.ndarray], **fields: Any):
    super().__init__(tuple(values), **fields)
    self._values = dict(values)

  @property
  def spec(self) -> dict[str, Spec]:
    """The shape and type of one item of every modality."""
    return {
      modality: Spec(values.shape[1:], values.dtype)
      for modality, values in self._values.items()
    }

  def num_items(self, modality: str) -> int:
    """The number of items of one modality; they are numbered from 0."""
    return len(self._values[modality])

  def read(
    self,
    modality: str,
    items: np.ndarray,
    where: np.ndarray,
    generator: Callable[[int], np.random.Generator] | None = None,
  ) -> tuple[np.ndarray, dict[int, Failure]]:
    """Returns a copy of items of one modality; nothing can fail."""
    return self._values[modality][items], {}


class ArraySource(_InMemory):
  """Aligned rows: row i of every array is the same instance.

  >>> source = ArraySource({"left": np.zeros((3, 4)), "right": np.ones((3, 2))})
  >>> len(source), source.modalities
  (3, ('left', 'right'))
  """

  def __init__(
    self,
    arrays: Mapping[str, np.ndarray],
    *,
    where: np.ndarray | None = None,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    notes: Sequence[str] = (),
  ):
    """Checks the arrays and keeps them.

    Args:
      arrays: each modality's rows, `[instance, ...]`.
      where: bool `[instance, modality]`, false where a row is absent; absent
        rows may hold anything and are replaced by zeros.
      ids: int `[instance]`; by default every instance has its own.
      labels: int `[instance]`, the classes; by default unknown (-1).
      notes: what loading did to the data.

    Raises:
      ValueError: if there are no rows, lengths differ, or a row that is
        present holds NaN or infinity.
    """
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
      raise ValueError(
        "expected arrays with the same number of rows, at least one, got "
        f"{lengths or 'no array'}"
      )
    num_rows = next(iter(lengths.values()))
    if where is None:
      where = np.ones((num_rows, len(arrays)), bool)
    if labels is None:
      labels = np.full(num_rows, -1)
    if ids is None:
      ids = np.arange(num_rows)
    where, labels, ids = map(np.asarray, (where, labels, ids))
    if where.shape != (num_rows, len(arrays)) or where.dtype != bool:
      raise ValueError(
        f"expected where= of shape {(num_rows, len(arrays))} and type bool, "
        f"got {where.shape} and {where.dtype}"
      )
    for name, values in (("labels", labels), ("ids", ids)):
      _check_integers(values, num_rows, f"{name}=")
    for column, (name, values) in enumerate(arrays.items()):
      present = where[:, column]
      if not present.all():
        arrays[name] = values = values.copy()
        values[~present] = 0
      _check_finite(values, name)
    super().__init__(arrays, labels=labels, ids=ids, where=where, notes=notes)

  def pairing(self, epoch: int) -> np.ndarray:
    """Returns row i for instance i in every epoch."""
    rows = np.arange(len(self), dtype=np.int32)
    return np.repeat(rows[:, np.newaxis], len(self.modalities), axis=1)


class ClassPairedSource(_InMemory):
  """Items that share only a class, paired anew within it in each epoch.

  A class has as many instances as its most frequent modality has items, and
  every item occurs at least once per epoch: the items of the other modalities
  are repeated, in a fresh order each time round.
  """

  def __init__(
    self,
    tables: Mapping[str, Table],
    *,
    seed: int,
    ids: Literal["label", "instance"] = "label",
    notes: Sequence[str] = (),
  ):
    """Checks the tables and keeps them.

    Args:
      tables: each modality's items and their classes.
      seed: the seed of the pairing, not negative.
      ids: what two instances must share to be no negatives of each other: the
        class ("label"), since a pair in one class is as true as any other, or
        nothing ("instance").
      notes: what loading did to the data.

    Raises:
      ValueError: if a table is empty, its lengths differ, an item holds NaN
        or infinity, or a class is missing in a modality.
    """
    if not tables:
      raise ValueError("expected at least one table, got none")
    if ids not in ("label", "instance"):
      raise ValueError(f'expected ids "label" or "instance", got {ids!r}')
    tables = {
      name: Table(np.asarray(table.values), np.asarray(table.labels))
      for name, table in tables.items()
    }
    for name, table in tables.items():
      if not len(table.values):
        raise ValueError(f"the table of {name!r} is empty")
      _check_integers(table.labels, len(table.values), f"labels of {name!r}")
      _check_finite(table.values, name)
    self._seed = seed
    self._items = _items_by_class(tables)
    sizes = {
      label: max(map(len, items.values()))
      for label, items in self._items.items()
    }
    labels = np.repeat(list(sizes), list(sizes.values()))
    super().__init__(
      {name: table.values for name, table in tables.items()},
      labels=labels,
      ids=labels if ids == "label" else np.arange(len(labels)),
      where=np.ones((len(labels), len(tables)), bool),
      notes=notes,
    )
    # A batch may straddle two epochs.
    self._cached_pairing = Recent(self._pair, size=2)

  def pairing(self, epoch: int) -> np.ndarray:
    """Returns the items that form each instance in one epoch."""
    return self._cached_pairing(epoch)

  def _pair(self, epoch: int) -> np.ndarray:
    rng = np.random.default_rng([self._seed, epoch])
    blocks = []
    for items in self._items.values():
      size = max(map(len, items.values()))
      columns = [
        _cycle(rng, items[modality], size) for modality in self.modalities
      ]
      blocks.append(np.stack(columns, axis=1))
    return np.concatenate(blocks)


def _items_by_class(
  tables: Mapping[str, Table],
) -> dict[int, dict[str, np.ndarray]]:
  """Returns {label: {modality: items}}, by ascending label."""
  classes = {name: set(t.labels.tolist()) for name, t in tables.items()}
  for label in sorted(set().union(*classes.values())):
    absent = [name for name, labels in classes.items() if label not in labels]
    if absent:
      raise ValueError(
        f"class {label} has items in some modalities but none in {absent}; "
        "leave its items out of the others or add some"
      )
  return {
    label: {
      name: np.flatnonzero(table.labels == label).astype(np.int32)
      for name, table in tables.items()
    }
    for label in sorted(set().union(*classes.values()))
  }


def _cycle(
  rng: np.random.Generator, items: np.ndarray, size: int
) -> np.ndarray:
  """Returns `size` items: as many fresh permutations as it takes."""
  num_rounds = -(-size // len(items))
  rounds = [rng.permutation(items) for _ in range(num_rounds)]
  return np.concatenate(rounds)[:size]


def _check_integers(values: np.ndarray, length: int, name: str) -> None:
  if values.shape != (length,) or not np.issubdtype(values.dtype, np.integer):
    raise ValueError(
      f"expected {name} of shape ({length},) and an integer type, got "
      f"{values.shape} and {values.dtype}"
    )


def _check_finite(values: np.ndarray, modality: str) -> None:
  if not np.issubdtype(values.dtype, np.number):
    raise ValueError(
      f"expected numbers in {modality!r}, got {values.dtype}; encode them first"
    )
  if not np.issubdtype(values.dtype, np.inexact):
    return
  good = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
  if not good.all():
    raise ValueError(
      f"{modality!r} holds NaN or infinity in item {np.flatnonzero(~good)[0]} "
      f"({np.count_nonzero(~good)} of {len(good)} items); repair them, leave "
      "them out, or mark them as absent with where="
    )
