"""Rows of a table or of records, decoded when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, get_args

import numpy as np

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.groups import group_ids
from pmrl_jax.data.recent import Recent
from pmrl_jax.data.sources import Source, Spec

Captions = Literal["draw", "all"]


class Rows(Protocol):
  """What a `RowSource` reads from: a manifest, or a TFDS data set.

  Attributes:
    kinds: what a value of each modality is, as in a manifest.
    ids: the name of each row.
    where: bool `[row, modality]`, in the order of `kinds`.
    labels: int `[row]`, or None.
    sources: what each row was cut from, "" where unknown, or None.
  """

  @property
  def kinds(self) -> Mapping[str, str]:
    """What a value of each modality is."""

  @property
  def ids(self) -> Sequence[str]:
    """The name of each row."""

  @property
  def where(self) -> np.ndarray:
    """Bool `[row, modality]`."""

  @property
  def labels(self) -> np.ndarray | None:
    """Int `[row]`, or None."""

  @property
  def sources(self) -> Sequence[str] | None:
    """What each row was cut from, or None."""

  def value(self, row: int, modality: str) -> Any:
    """Returns a path, encoded bytes, an array, or the texts of a row."""


class Input(Protocol):
  """From the value of a row to an array of one shape; see `inputs`."""

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Decodes a value, at random in training, not in an evaluation (None)."""


class RowSource(Source):
  """Instances that are read from files or records, one by one.

  A row may have several texts (captions) in one modality. In training each
  epoch draws one of them; an evaluation has an instance for each, which share
  the row's other items, so that every text is a query.

  Rows of one source, and rows with the same text, have the same id.
  """

  def __init__(
    self,
    rows: Rows,
    inputs: Mapping[str, Input],
    *,
    captions: Captions,
    seed: int = 0,
    notes: Sequence[str] = (),
  ):
    """Looks through the rows; nothing is decoded yet.

    Args:
      rows: the table.
      inputs: how each modality of the run is decoded, in their order.
      captions: "draw" (training) or "all" (evaluation).
      seed: the seed of the draw, not negative.
      notes: what loading did to the data.

    Raises:
      ValueError: if there are no rows, a modality does not exist, or a choice
        is unknown.
    """
    if captions not in get_args(Captions):
      raise ValueError(f'expected captions "draw" or "all", got {captions!r}')
    unknown = [name for name in inputs if name not in rows.kinds]
    if unknown or not inputs:
      raise ValueError(
        f"expected modalities among {list(rows.kinds)}, got {list(inputs)}"
      )
    num_rows = len(rows.ids)
    if not num_rows:
      raise ValueError("the data set has no rows")
    self._rows = rows
    self._inputs = dict(inputs)
    self._captions = captions
    self._seed = seed
    # The first text of each row, and the number of all, for text modalities.
    self._offsets: dict[str, np.ndarray] = {}
    texts = []
    columns = [list(rows.kinds).index(name) for name in inputs]
    where = rows.where[:, columns]
    for index, name in enumerate(inputs):
      if rows.kinds[name] == "text":
        column = [rows.value(row, name) or [] for row in range(num_rows)]
        texts.append(column)
        self._offsets[name] = np.cumsum([0, *map(len, column)])
        where[:, index] &= np.diff(self._offsets[name]) > 0
    instances = self._instances(num_rows)
    labels = np.full(num_rows, -1) if rows.labels is None else rows.labels
    ids = group_ids(num_rows, sources=rows.sources, texts=texts)
    super().__init__(
      tuple(inputs),
      labels=np.asarray(labels)[instances],
      ids=ids[instances],
      where=where[instances],
      notes=notes,
    )
    self._instance_rows = instances
    # A batch may straddle two epochs.
    self._cached_pairing = Recent(self._pair, size=2)

  @property
  def names(self) -> list[str]:
    """The id of each instance's row in the data set."""
    ids = self._rows.ids
    return [ids[row] for row in self._instance_rows]

  @property
  def spec(self) -> dict[str, Spec]:
    """The shape and type of one item of every modality."""
    return {name: each.spec for name, each in self._inputs.items()}

  def num_items(self, modality: str) -> int:
    """The number of texts of a modality that is text, of rows otherwise."""
    if modality in self._offsets:
      return int(self._offsets[modality][-1])
    return len(self._rows.ids)

  def value(self, modality: str, item: int) -> Any:
    """Returns an item before it is decoded: a path, bytes, array or text."""
    row, text = self._locate(modality, item)
    value = self._rows.value(row, modality)
    return value if text is None else value[text]

  def pairing(self, epoch: int) -> np.ndarray:
    """Returns the items that form each instance in one epoch."""
    return self._cached_pairing(epoch)

  def _pair(self, epoch: int) -> np.ndarray:
    rows = self._instance_rows
    columns = []
    for index, name in enumerate(self.modalities):
      if name not in self._offsets:
        columns.append(rows)
        continue
      first = self._offsets[name][:-1]
      is_absent = np.diff(self._offsets[name]) == 0
      count = np.maximum(np.diff(self._offsets[name]), 1)
      if self._captions == "draw":
        rng = np.random.default_rng([self._seed, epoch, 3, index])
        which = np.floor(rng.random(len(first)) * count).astype(np.int64)
      else:
        # Rows with fewer texts than another modality has repeat theirs.
        start = np.flatnonzero(np.r_[True, np.diff(rows) > 0])
        lengths = np.diff(np.r_[start, len(rows)])
        which = np.arange(len(rows)) - np.repeat(start, lengths)
        first, count = first[rows], count[rows]
        which = which % count
      # A text that is not there is no other row's: behind the last one.
      missing = self._offsets[name][-1] + rows
      columns.append(np.where(is_absent[rows], missing, first + which))
    return np.stack(columns, axis=1).astype(np.int32)

  def read(
    self,
    modality: str,
    items: np.ndarray,
    where: np.ndarray,
    generator: Callable[[int], np.random.Generator] | None = None,
  ) -> tuple[np.ndarray, dict[int, Failure]]:
    """Reads and decodes items of one modality; see `Source.read`."""
    decode = self._inputs[modality]
    values = np.zeros((len(items), *decode.spec.shape), decode.spec.dtype)
    failures = {}
    for index in np.flatnonzero(where).tolist():
      rng = None if generator is None else generator(index)
      try:
        value = decode(rng, self.value(modality, int(items[index])))
        if value.shape != decode.spec.shape:  # never broadcast
          raise ValueError(
            f"expected the shape {decode.spec.shape}, got {value.shape}"
          )
        values[index] = value
      except (ValueError, OSError) as error:
        row, _ = self._locate(modality, int(items[index]))
        reason = " ".join(str(error).split())
        failures[index] = Failure(self._rows.ids[row], modality, reason)
    return values, failures

  def _instances(self, num_rows: int) -> np.ndarray:
    """Returns the row of every instance."""
    if self._captions == "draw" or not self._offsets:
      return np.arange(num_rows)
    counts = [np.diff(offsets) for offsets in self._offsets.values()]
    return np.repeat(np.arange(num_rows), np.maximum(np.max(counts, axis=0), 1))

  def _locate(self, modality: str, item: int) -> tuple[int, int | None]:
    """Returns the row of an item, and which of the row's texts it is."""
    if modality not in self._offsets:
      return item, None
    offsets = self._offsets[modality]
    row = int(np.searchsorted(offsets, item, side="right")) - 1
    return row, int(item - offsets[row])
