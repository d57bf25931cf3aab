"""What the cells of a column are: video, audio, image, array, vector, text."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

KINDS = ("video", "audio", "image", "array", "vector", "text")
FILE_KINDS = ("video", "audio", "image", "array")  # a cell is a path

# The columns that are no modalities.
RESERVED = ("id", "label", "source", "split")

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def check_kinds(
  kinds: Mapping[str, str | None], columns: Iterable[str]
) -> None:
  """Checks the kinds that a user gives against the columns of a table.

  Raises:
    ValueError: if a column does not exist or is no modality, or a kind is
      unknown.
  """
  modalities = [name for name in columns if name not in RESERVED]
  for modality, kind in kinds.items():
    if modality in RESERVED:
      raise ValueError(f"the column {modality!r} is no modality; give no kind")
    if modality not in modalities:
      close = difflib.get_close_matches(modality, modalities, n=1)
      raise ValueError(
        f"there is no column {modality!r}; "
        + (f"did you mean {close[0]!r}? " if close else "")
        + f"The columns are {modalities}"
      )
    if kind is not None and kind not in KINDS:
      raise ValueError(
        f"expected one of {KINDS} as the kind of {modality!r}, got {kind!r}"
      )


def parse_json_list(text: str) -> list[Any] | None:
  """Returns the list that a CSV cell spells, or None if it spells none."""
  if not text.lstrip().startswith("["):
    return None
  try:
    value = json.loads(text)
  except ValueError:
    return None
  return value if isinstance(value, list) else None


def is_number(value: Any) -> bool:
  """Whether a value is a number, which True and False are not."""
  return isinstance(value, int | float) and not isinstance(value, bool)
