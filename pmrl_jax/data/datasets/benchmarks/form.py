"""What all annotation files have in common: files -> content -> rows."""

from __future__ import annotations

import csv
import io
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple


class Row(NamedTuple):
  """One item of a data set, as its annotation file has it."""

  id: str
  texts: Mapping[str, Sequence[str]]  # modality -> texts, empty ones included
  source: str | None = None  # what the item was cut from
  split: str | None = None  # where one file holds several splits
  file_names: tuple[str, ...] = ()  # of its media, after the id, no extension


class Form(NamedTuple):
  """One form of annotation file: how to know it, how to read it."""

  text: str  # for error messages: what such a file holds
  fits: Callable[[Any], bool]  # content -> whether it is of this form
  rows: Callable[[Any], list[Row]]
  # An object or a CSV row -> its keys that are read; the rest is only counted.
  reads: Callable[[Mapping[str, Any]], Set[str]] = frozenset


def read_content(path: pathlib.Path) -> Any:
  """Reads a JSON file, or a CSV file as a list of dicts.

  Args:
    path: a `.json` or `.csv` file, UTF-8.

  Returns:
    The content: a list of objects, or whatever else the JSON file holds.

  Raises:
    ValueError: if the file cannot be read, or a CSV line does not have as many
      fields as the header.
  """
  if path.suffix.lower() not in (".json", ".csv"):
    raise ValueError(
      f"expected an annotation file that ends in .json or .csv, got {path}"
    )
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(
      f"expected UTF-8 in {path}, got byte {error.object[error.start]:#x} at "
      f"{error.start}; save the file as UTF-8"
    ) from error
  if path.suffix.lower() == ".json":
    try:
      return json.loads(text)
    except json.JSONDecodeError as error:
      raise ValueError(
        f"{path} is not JSON (line {error.lineno}: {error.msg}); a download "
        "that broke off ends like this"
      ) from error
  return _read_csv(text, path)


def is_list_with(content: Any, *keys: str) -> bool:
  """Whether this is a list whose first object has all of these keys."""
  return bool(
    isinstance(content, list)
    and content
    and isinstance(content[0], dict)
    and all(key in content[0] for key in keys)
  )


def texts_of(value: Any, row: str) -> list[str]:
  """Returns a text, a list of texts or nothing as a list of texts.

  Args:
    value: str, list of str, or None.
    row: what to call the row in an error message.

  Returns:
    The texts as they are; nothing for None.

  Raises:
    ValueError: if it is something else.
  """
  if value is None:
    return []
  texts = value if isinstance(value, list) else [value]
  if not all(isinstance(text, str) for text in texts):
    raise ValueError(
      f"expected a text or a list of texts in {row}, got {value!r:.80}"
    )
  return list(texts)


def some(names: Sequence[str], limit: int = 5) -> str:
  """Returns the first few names, and how many more there are."""
  rest = len(names) - limit
  first = ", ".join(map(repr, names[:limit]))
  return f"{first} and {rest:,} more" if rest > 0 else first


def _read_csv(text: str, path: pathlib.Path) -> list[dict[str, str]]:
  lines = csv.reader(io.StringIO(text, newline=""), strict=True)
  try:
    header = next(lines, [])
    rows = []
    for fields in lines:
      if len(fields) != len(header):
        if not fields:
          continue  # a blank line
        raise ValueError(
          f"expected {len(header)} fields in line {lines.line_num} of {path}, "
          f'as in its header, got {len(fields)}; quote texts with commas ("…")'
        )
      rows.append(dict(zip(header, fields)))
  except csv.Error as error:
    raise ValueError(
      f"{path} is not CSV (line {lines.line_num}: {error})"
    ) from error
  return rows
