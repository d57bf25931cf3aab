"""What a column holds, from its first cells."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pmrl_jax.data.manifest.kinds import (
  NUMBER,
  RESERVED,
  check_kinds,
  is_number,
  parse_json_list,
)
from pmrl_jax.data.manifest.reading import form_of, read_batches

_NUM_INFERRED = 100  # how many cells tell what a column holds
_NUM_HEAD_ROWS = 16_384  # in how many rows they are looked for

EXTENSIONS: dict[str, list[str]] = {
  "video": (
    ".3gp .avi .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ogv .ts .webm "
    ".wmv"
  ).split(),
  "audio": (
    ".aac .aif .aiff .au .flac .m4a .mp3 .oga .ogg .opus .wav .wma"
  ).split(),
  "image": (
    ".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp"
  ).split(),
  "array": [".npy"],
}  # fmt: skip
_KIND_OF_EXTENSION = {
  extension: kind
  for kind, extensions in EXTENSIONS.items()
  for extension in extensions
}


def find_kinds(
  path: pathlib.Path,
  columns: Sequence[str],
  kinds: Mapping[str, str | None] | None = None,
) -> dict[str, str]:
  """Returns the kinds of a table: those given, and the others inferred.

  Raises:
    ValueError: if there is no column `id` or no modality, or a kind is wrong or
      cannot be inferred.
  """
  if "id" not in columns:
    raise ValueError(f"expected a column 'id' in {path}, got {list(columns)}")
  given = dict(kinds or {})
  check_kinds(given, columns)
  modalities = [name for name in columns if name not in RESERVED]
  unknown = [name for name in modalities if name not in given]
  heads = _read_heads(path, unknown) if unknown else {}
  is_csv = form_of(path) == "csv"
  found = given | {
    name: infer_kind(name, head, is_csv=is_csv) for name, head in heads.items()
  }
  chosen = {name: found[name] for name in modalities}
  read = {name: kind for name, kind in chosen.items() if kind is not None}
  if not read:
    raise ValueError(
      f"{path} has no modality that is read, only the columns {list(columns)}"
    )
  return read


def _read_heads(path: pathlib.Path, columns: list[str]) -> dict[str, list[Any]]:
  """Returns the first cells of every column that are not empty."""
  heads: dict[str, list[Any]] = {name: [] for name in columns}
  batch = None
  for batch in read_batches(path, columns):
    for name, head in heads.items():
      raw = batch.columns[name]
      if isinstance(raw, pa.Array):
        raw = raw.drop_null()[:_NUM_INFERRED].to_pylist()
      cells = (v for v in raw if v is not None and v != "" and v != [])
      head += itertools.islice(cells, _NUM_INFERRED - len(head))
    if batch.problems and not all(heads.values()):
      raise ValueError(f"{path}: {batch.problems[0]}")
    is_full = all(len(head) == _NUM_INFERRED for head in heads.values())
    if is_full or batch.first_row + batch.num_rows >= _NUM_HEAD_ROWS:
      break
  if batch is None:
    raise ValueError(f"the manifest {path} has no rows")
  return heads


def infer_kind(modality: str, values: Sequence[Any], *, is_csv: bool) -> str:
  """Infers a column's kind from some of its values.

  A path with a known extension tells its kind, numbers and lists of numbers
  are vectors, everything else is text. Videos in a column called "audio" are
  there for their sound.

  Args:
    modality: the name of the column.
    values: some cells that are not empty.
    is_csv: whether they are strings that may spell numbers and lists.

  Returns:
    One of `KINDS`.

  Raises:
    ValueError: if there are no values, or they are not all of one kind.

  >>> infer_kind("clip", ["a/1.mp4", "a/2.MOV"], is_csv=False)
  'video'
  """
  mend = f"say what it is, as kinds={{{modality!r}: 'text'}} (None: not read)"
  if not values:
    raise ValueError(
      f"cannot tell what the column {modality!r} holds, since its first cells "
      f"are all empty; {mend}"
    )
  examples: dict[str, Any] = {}
  for value in values:
    kind = _kind_of(value, is_csv=is_csv)
    if kind == "video" and modality == "audio":
      kind = "audio"
    examples.setdefault(kind, value)
  if len(examples) > 1:
    found = ", ".join(
      f"{_shortened(value)} looks like {kind}"
      for kind, value in examples.items()
    )
    raise ValueError(
      f"cannot tell what the column {modality!r} holds, since it seems to mix "
      f"kinds: {found}; {mend}"
    )
  return next(iter(examples))


def _kind_of(value: Any, *, is_csv: bool) -> str:
  if is_csv:
    if NUMBER.fullmatch(value.strip()):
      return "vector"
    value = parse_json_list(value) or value
  if isinstance(value, str):
    extension = re.search(r"\.\w+$", value)
    return _KIND_OF_EXTENSION.get(
      extension[0].lower() if extension else "", "text"
    )
  values = value if isinstance(value, list) else [value]
  return "vector" if all(map(is_number, values)) else "text"


def _shortened(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else f"{text[:57]}..."
