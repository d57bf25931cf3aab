"""State dicts to parameters and back, tensor by tensor."""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pmrl_jax.weights.initial import Init
from pmrl_jax.weights.places import (
  Place,
  places_of,
  to_state_dict,
  to_tensors,
)
from pmrl_jax.weights.resizing import Resizing
from pmrl_jax.weights.tables import Constant, Line, Unused
from pmrl_jax.weights.tensors import LazyTensor, Tensors, lazy
from pmrl_jax.weights.trees import flat, listing, nested

__all__ = ["Loaded", "compare", "to_params", "to_state_dict", "to_tensors"]


class Loaded(NamedTuple):
  """What became of a state dict.

  Attributes:
    params: The nested dict of NumPy arrays. A parameter that is missing, or
      some layers of which are, is in it only if there was an init.
    missing: Keys of the table that the state dict does not have, under none
      of their names: of copies of one tensor a file may hold any.
    unexpected: Keys of the state dict that the table does not have.
    unused: Keys that the table knows to be of no use.
    resized: Keys whose tensors were resized, with the shapes that they had
      and have.
  """

  params: dict[str, Any]
  missing: list[str]
  unexpected: list[str]
  unused: list[str]
  resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def to_params(
  tensors: Tensors,
  table: Sequence[Line],
  *,
  target: Any = None,
  resizing: Resizing | None = None,
  init: Init | None = None,
  progress: Callable[[int, int], None] = lambda done, total: None,
) -> Loaded:
  """Turns a state dict into parameters.

  Tensors are read one by one, each into its place: beside the parameters
  there is never more than one tensor in memory.

  Args:
    tensors: `{key: array}`, or `{key: LazyTensor}` of a file.
    table: What is what.
    target: The tree of the parameters' shapes and dtypes, as from
      `jax.eval_shape` of the module's `init`. What does not fit is found
      before anything is read, and dtypes are made the target's.
    resizing: What may have another size in the state dict, and how it gets
      the target's.
    init: Called with the paths of the parameters that are not (wholly) in the
      state dict; returns `{path: array}` for them.
    progress: Called with the bytes that are done, and all bytes.

  Returns:
    The parameters, and the keys that did not fit.

  Raises:
    ValueError: If shapes do not fit, copies of one tensor differ, or a
      constant has another value.
  """
  plan, report = _compared(tensors, table, target, resizing)
  arrays: dict[str, np.ndarray] = {}
  filled: set[tuple[str, int | None]] = set()
  done, total = 0, sum(tensor.nbytes for tensor in plan.tensors.values())
  for key, tensor in plan.tensors.items():
    _place(key, tensor, plan.places[key], plan.specs, arrays, filled)
    done += tensor.nbytes
    progress(done, total)
  missing = [plan.places[key] for key in report.missing]
  _fill(missing, arrays, plan.specs, init)
  return report._replace(params=nested(arrays))


def compare(
  tensors: Tensors,
  table: Sequence[Line],
  *,
  target: Any = None,
  resizing: Resizing | None = None,
) -> Loaded:
  """What `to_params` would say, without reading (`params` is empty).

  Args:
    tensors: As for `to_params`.
    table: Likewise.
    target: Likewise.
    resizing: Likewise.

  Returns:
    The keys that did not fit.

  Raises:
    ValueError: If shapes do not fit, or a constant has another value.
  """
  return _compared(tensors, table, target, resizing)[1]


class _Plan(NamedTuple):
  """Which tensors go where."""

  tensors: dict[str, LazyTensor]
  places: dict[str, Place]
  specs: dict[str, Any] | None


def _compared(
  tensors: Tensors,
  table: Sequence[Line],
  target: Any,
  resizing: Resizing | None,
) -> tuple[_Plan, Loaded]:
  places = places_of(table)
  fitting = {key: lazy(tensors[key]) for key in tensors if key in places}
  resized = {}
  specs = None if target is None else flat(target)
  if specs is not None:
    wanted = to_tensors(nested(specs), table)
    for pattern, change in (resizing or {}).items():
      for key in fnmatch.filter(fitting, pattern):
        before, after = fitting[key].shape, wanted[key].shape
        fitting[key] = change(fitting[key], after)
        if fitting[key].shape != before:
          resized[key] = (before, after)
    _check_target(fitting, wanted, places)
  _check_layers(fitting, places)
  others = {key: tensors[key] for key in tensors if key not in places}
  expected, unused = _without_parameter(others, table)
  report = Loaded(
    params={},
    missing=_missing(fitting, places),
    unexpected=[key for key in others if key not in expected],
    unused=unused,
    resized=resized,
  )
  return _Plan(fitting, places, specs), report


def _check_target(
  tensors: Mapping[str, LazyTensor],
  wanted: Mapping[str, LazyTensor],
  places: Mapping[str, Place],
) -> None:
  """Checks the shapes against those of the target."""
  wrong = [
    f"{key} is {list(tensor.shape)}, and {places[key].entry.path} expects "
    f"{list(wanted[key].shape)}"
    for key, tensor in tensors.items()
    if tensor.shape != wanted[key].shape
  ]
  if wrong:
    raise ValueError(
      f"{len(wrong)} of {len(tensors)} tensors do not fit the model; is the "
      f"checkpoint that of another size?{listing(wrong)}"
    )


def _check_layers(
  tensors: Mapping[str, LazyTensor], places: Mapping[str, Place]
) -> None:
  """Checks the shapes of layers and copies against each other."""
  first: dict[str, str] = {}
  for key, tensor in tensors.items():
    other = first.setdefault(places[key].entry.path, key)
    if tensor.shape != tensors[other].shape:
      raise ValueError(
        f"all layers and copies must have one shape, got {key} "
        f"{list(tensor.shape)} beside {other} {list(tensors[other].shape)}"
      )


def _place(
  key: str,
  tensor: LazyTensor,
  place: Place,
  specs: Mapping[str, Any] | None,
  arrays: dict[str, np.ndarray],
  filled: set[tuple[str, int | None]],
) -> None:
  """Reads a tensor into its place."""
  entry, layer = place
  array = entry.layout.to_flax(tensor.read())
  if entry.path not in arrays:
    dtype = array.dtype if specs is None else specs[entry.path].dtype
    stack = () if layer is None else (entry.depth,)
    arrays[entry.path] = np.empty((*stack, *array.shape), dtype)
  whole = arrays[entry.path]
  at: Any = ... if layer is None else layer
  if place.slot not in filled:
    whole[at] = array
    filled.add(place.slot)
  elif not np.array_equal(whole[at], array.astype(whole.dtype)):
    raise ValueError(f"{key} should be a copy of {entry.key}, and is not")


def _missing(tensors: Tensors, places: Mapping[str, Place]) -> list[str]:
  """The first key of every tensor that is there under none of its keys."""
  seen = {places[key].slot for key in tensors}
  missing = []
  for key, place in places.items():
    if place.slot not in seen:
      missing.append(key)
      seen.add(place.slot)
  return missing


def _fill(
  missing: Sequence[Place],
  arrays: dict[str, np.ndarray],
  specs: Mapping[str, Any] | None,
  init: Init | None,
) -> None:
  """Takes what was not in the state dict from an init, or leaves it out."""
  paths = dict.fromkeys(place.entry.path for place in missing)
  # The module may have parameters of which the table knows nothing.
  paths |= {path: None for path in specs or {} if path not in arrays}
  values = init(list(paths)) if init is not None and paths else {}
  for path in paths:
    if path not in values:
      arrays.pop(path, None)
    elif path not in arrays:
      arrays[path] = np.asarray(values[path])
    else:
      for layer in (p.layer for p in missing if p.entry.path == path):
        arrays[path][layer] = values[path][layer]


def _without_parameter(
  tensors: Tensors, table: Sequence[Line]
) -> tuple[set[str], list[str]]:
  """Which keys are constants or unused, and which of them are unused."""
  expected, unused = set(), []
  for line in table:
    if isinstance(line, Unused):
      unused += fnmatch.filter(tensors, line.key)
    elif isinstance(line, Constant) and line.key in tensors:
      expected.add(line.key)
      if not line.checked:
        continue
      array = lazy(tensors[line.key]).read()
      if not np.array_equal(array, line.value):
        raise ValueError(
          f"{line.key} has to be {line.value.tolist()!s:.40}… "
          f"{list(line.value.shape)}, got {array.tolist()!s:.40}… "
          f"{list(array.shape)}; give the module the sizes of the checkpoint"
        )
  return expected | set(unused), unused
