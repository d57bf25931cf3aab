"""Raw cells -> typed columns: every cell is what its column's kind says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pmrl_jax.data.manifest.kinds import (
  FILE_KINDS,
  NUMBER,
  RESERVED,
  is_number,
  parse_json_list,
)
from pmrl_jax.data.manifest.reading import Problem, RawBatch

TEXTS = pa.list_(pa.string())
VECTOR = pa.list_(pa.float32())
_LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


class CellTyper:
  """Turns the raw batches of one table into typed ones.

  The columns `id`, `source` and `split` become strings, `label` int64, paths
  strings, texts lists of strings, vectors lists of float32; an absent cell is
  null. Texts of nothing but white space are absent.

  Attributes:
    num_blank_texts: how many such texts there were.
  """

  def __init__(self, kinds: Mapping[str, str], columns: Sequence[str]):
    """Prepares for a table.

    Args:
      kinds: {modality: kind}.
      columns: those of the table; of the reserved ones, which it has.
    """
    self._kinds = dict(kinds)
    self._reserved = [name for name in RESERVED if name in columns]
    self._dims: dict[str, int] = {}  # of the vectors, by the first one
    self.num_blank_texts = 0

  @property
  def columns(self) -> list[str]:
    """The columns to read, in the order of the typed table."""
    return [*self._reserved, *self._kinds]

  @property
  def schema(self) -> pa.Schema:
    """The types of the columns."""
    types = {name: pa.string() for name in self.columns}
    types |= {"label": pa.int64()} if "label" in self._reserved else {}
    types |= {m: TEXTS for m, kind in self._kinds.items() if kind == "text"}
    types |= {m: VECTOR for m, kind in self._kinds.items() if kind == "vector"}
    return pa.schema(list(types.items()))

  def type_batch(
    self, batch: RawBatch, *, is_csv: bool
  ) -> tuple[pa.RecordBatch, list[Problem]]:
    """Types a batch.

    Args:
      batch: the raw rows.
      is_csv: whether cells are strings that may spell numbers and lists.

    Returns:
      The typed rows, with null where a cell is bad, and what is bad.

    Raises:
      ValueError: if a column of a parquet file has a type that cannot be.
    """
    arrays, problems = [], list(batch.problems)
    bad_rows = {problem.row for problem in problems}
    for name in self.columns:
      found: dict[int, str] = {}
      arrays.append(self._type_column(name, batch.columns[name], found, is_csv))
      rows = ((batch.first_row + row, why) for row, why in found.items())
      problems += [
        Problem(row, "", name, why) for row, why in rows if row not in bad_rows
      ]
    typed = pa.RecordBatch.from_arrays(arrays, schema=self.schema)
    ids = typed.column("id")
    named = [
      p._replace(id=ids[p.row - batch.first_row].as_py() or "")
      for p in problems
    ]
    return typed, sorted(named)

  def _type_column(
    self, name: str, raw: Any, found: dict[int, str], is_csv: bool
  ) -> pa.Array:
    kind = self._kinds.get(name, name)
    if kind == "vector" and isinstance(raw, pa.Array):
      typed = _arrow_vectors(name, raw, found)
    else:
      typed = self._type_values(name, kind, raw, found, is_csv)
    if kind == "vector":
      self._check_dims(name, typed, found)
    return typed

  def _type_values(
    self, name: str, kind: str, raw: Any, found: dict[int, str], is_csv: bool
  ) -> pa.Array:
    if isinstance(raw, pa.Array):
      _check_arrow_type(name, kind, raw.type)
      raw = raw.to_pylist()
    convert: Callable[[Any, bool], Any] = {
      "text": self._texts,
      "vector": _vector,
      "id": _name,
      "source": _name,
      "split": _name,
      "label": _label,
    }.get(kind, _path)
    values: list[Any] = []
    for row, value in enumerate(raw):
      try:
        is_absent = value is None or isinstance(value, str) and not value
        values.append(None if is_absent else convert(value, is_csv))
      except ValueError as error:
        found[row] = str(error)
        values.append(None)
      if name == "id" and values[-1] is None:
        found.setdefault(row, "expected an id, got an empty cell")
    return pa.array(values, self.schema.field(name).type)

  def _texts(self, value: Any, is_csv: bool) -> list[str] | None:
    if is_csv:
      texts = parse_json_list(value)
      if texts is None and re.match(r'\s*\["', value):
        raise ValueError(f"expected a JSON list of texts, got {_shown(value)}")
      value = value if texts is None else texts
    texts = value if isinstance(value, list) else [value]
    for text in texts:
      if not isinstance(text, str):
        raise ValueError(f"expected text, got {_shown(text)}")
      try:
        text.encode()
      except UnicodeEncodeError:
        raise ValueError(f"text that is no Unicode: {text!a:.60}") from None
    kept = [text for text in texts if text.strip()]
    self.num_blank_texts += len(texts) - len(kept)
    return kept or None

  def _check_dims(self, name: str, typed: pa.Array, found: dict) -> None:
    lengths = pc.fill_null(pc.list_value_length(typed), -1).to_numpy(
      zero_copy_only=False
    )
    present = lengths[lengths >= 0]
    if len(present):
      dim = self._dims.setdefault(name, int(present[0]))
      for row in np.flatnonzero((lengths >= 0) & (lengths != dim)).tolist():
        found[row] = (
          f"expected {dim} numbers as in the rows before, got {lengths[row]}; "
          "arrays of varying size go into .npy files"
        )


def _path(value: Any, is_csv: bool) -> str:
  del is_csv
  if not isinstance(value, str):
    raise ValueError(f"expected a path, got {_shown(value)}")
  if "\0" in value:
    raise ValueError(f"expected a path, got {value!r}")
  return value


def _name(value: Any, is_csv: bool) -> str:
  del is_csv
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str):
    raise ValueError(f"expected text, got {_shown(value)}")
  return value


def _label(value: Any, is_csv: bool) -> int | None:
  number = value
  if is_csv and NUMBER.fullmatch(value.strip()):
    number = float(value) if not value.strip().isdigit() else int(value)
  # An integer column with gaps comes as floats from pandas.
  if isinstance(number, float) and number.is_integer():
    number = int(number)
  if isinstance(number, float) and math.isnan(number) and not is_csv:
    return None
  if not isinstance(number, int) or isinstance(number, bool):
    raise ValueError(f"expected an integer label, got {_shown(value)}")
  if not -(2**63) <= number < 2**63:
    raise ValueError(f"expected a label of 64 bits, got {number}")
  return number


def _vector(value: Any, is_csv: bool) -> np.ndarray:
  values = value
  if is_csv:
    values = parse_json_list(value)
    if values is None and NUMBER.fullmatch(value.strip()):
      values = [float(value)]
  elif not isinstance(value, list):
    values = [value]
  if not values or not all(map(is_number, values)):
    raise ValueError(f"expected numbers, got {_shown(value)}")
  with np.errstate(over="ignore"):
    numbers = np.asarray(values, np.float64).astype(np.float32)
  if not np.isfinite(numbers).all():
    raise ValueError(f"expected finite numbers, got {_shown(value)}")
  return numbers


def _arrow_vectors(name: str, raw: pa.Array, found: dict[int, str]) -> pa.Array:
  """Types vectors without a Python object for every number."""
  numbers = raw.type
  is_list = isinstance(numbers, _LISTS)
  if is_list:
    numbers = numbers.value_type
  if not (pa.types.is_integer(numbers) or pa.types.is_floating(numbers)):
    raise ValueError(
      f"expected numbers or lists of numbers in the column {name!r}, got "
      f"{raw.type}"
    )
  if not is_list:
    column = pc.cast(raw, pa.float32(), safe=False)
    offsets = np.r_[0, np.cumsum(column.is_valid().to_numpy(False))]
    vectors = pa.ListArray.from_arrays(
      pa.array(offsets, pa.int32()),
      column.drop_null(),
      mask=column.is_null(),
    )
  else:
    vectors = pc.cast(raw, VECTOR, safe=False)
  flat = vectors.flatten()
  finite = pc.fill_null(pc.is_finite(flat), False).to_numpy(False)
  lengths = pc.fill_null(pc.list_value_length(vectors), 0).to_numpy(False)
  bad = np.repeat(np.arange(len(vectors)), lengths)[~finite]
  empty = np.flatnonzero((lengths == 0) & vectors.is_valid().to_numpy(False))
  for row in np.unique(np.concatenate([bad, empty])).tolist():
    found[row] = f"expected finite numbers, got {_shown(raw[row].as_py())}"
  if found:
    good = np.ones(len(vectors), bool)
    good[list(found)] = False
    vectors = pc.if_else(pa.array(good), vectors, pa.scalar(None, VECTOR))
  return vectors


def _check_arrow_type(name: str, kind: str, arrow: pa.DataType) -> None:
  """Refuses a parquet column as a whole, if no cell of it can be right."""
  expected = {
    "text": "texts or lists of texts",
    "label": "integers",
    **dict.fromkeys(FILE_KINDS, "paths"),
  }.get(kind, "texts")
  inner = arrow
  if isinstance(inner, pa.DictionaryType):
    inner = inner.value_type
  if kind == "text" and isinstance(inner, _LISTS):
    inner = inner.value_type
  is_text = (
    pa.types.is_string(inner)
    or pa.types.is_large_string(inner)
    or pa.types.is_string_view(inner)
  )
  is_integer = pa.types.is_integer(inner)
  if kind == "label":
    fits = is_integer or pa.types.is_floating(inner)  # as of pandas
  else:
    fits = is_text or (is_integer and kind in ("id", "source", "split"))
  if not fits and not pa.types.is_null(inner):
    raise ValueError(f"expected {expected} in the column {name!r}, got {arrow}")


def _shown(value: Any) -> str:
  text = repr(value)
  if len(text) > 60:
    text = f"{text[:57]}..."
  return text if value is None else f"{text} ({type(value).__name__})"


def typed_batches(
  batches: Iterator[RawBatch], typer: CellTyper, *, is_csv: bool
) -> Iterator[tuple[int, pa.RecordBatch, list[Problem]]]:
  """Yields `(first row, typed batch, problems)`."""
  for batch in batches:
    yield batch.first_row, *typer.type_batch(batch, is_csv=is_csv)
