"""Where the tensors of a table go, and parameters as those tensors."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pmrl_jax.weights.tables import LAYER, Constant, Entry, Line
from pmrl_jax.weights.tensors import LazyTensor, lazy, stand_in
from pmrl_jax.weights.trees import flat, listing


class Place(NamedTuple):
  """Where a tensor goes: a parameter, or a layer of one."""

  entry: Entry
  layer: int | None = None  # None: the parameter as a whole

  @property
  def slot(self) -> tuple[str, int | None]:
    """The same for all copies of a tensor."""
    return self.entry.path, self.layer


def to_state_dict(
  params: Mapping[str, Any], table: Sequence[Line]
) -> Iterator[tuple[str, np.ndarray]]:
  """Yields the state dict of parameters, in the order of the table.

  Args:
    params: The nested dict.
    table: What is what.

  Yields:
    `(key, array)`.

  Raises:
    ValueError: If a parameter of the table is missing.
  """
  for key, tensor in to_tensors(params, table).items():
    yield key, tensor.read()


def to_tensors(params: Any, table: Sequence[Line]) -> dict[str, LazyTensor]:
  """The state dict of parameters, made tensor by tensor when it is read.

  Args:
    params: The nested dict of arrays. Of shapes and dtypes alone, the tensors
      have theirs and cannot be read.
    table: What is what.

  Returns:
    `{key: tensor}`, in the order of the table, constants last.

  Raises:
    ValueError: If a parameter of the table is missing, or has another number
      of layers.
  """
  arrays, places = flat(params), places_of(table)
  paths = dict.fromkeys(place.entry.path for place in places.values())
  if missing := [path for path in paths if path not in arrays]:
    raise ValueError(
      f"the parameters lack {len(missing)} of the table:{listing(missing)}"
    )
  tensors = {}
  for key, place in places.items():
    tensors[key] = _tensor(arrays[place.entry.path], place)
  for line in table:
    if isinstance(line, Constant):
      tensors[line.key] = lazy(line.value)
  return tensors


def _tensor(array: Any, place: Place) -> LazyTensor:
  """A parameter, or a layer of one, as the tensor that it becomes."""
  entry, layer = place
  shape = tuple(array.shape)
  if layer is not None:
    if shape[:1] != (entry.depth,):
      raise ValueError(
        f"{entry.path} should have {entry.depth} layers, got {list(shape)}"
      )
    shape = shape[1:]
  form = entry.layout.to_torch(stand_in(shape, array.dtype))

  def read() -> np.ndarray:
    values = array if layer is None else array[layer]
    return entry.layout.to_torch(np.asarray(values))

  return LazyTensor(form.shape, form.dtype, read)


def places_of(table: Sequence[Line]) -> dict[str, Place]:
  """All keys of a table's entries, with their layers."""
  places = {}
  for entry in table:
    if not isinstance(entry, Entry):
      continue
    for key in (entry.key, *entry.copies):
      if LAYER not in key:
        places[key] = Place(entry)
        continue
      for layer in range(entry.depth):
        places[key.replace(LAYER, str(layer))] = Place(
          entry, None if entry.repeated else layer
        )
  return places
