"""The form that the published training code of VAST, GRAM and PMRL reads.

A JSON list of objects. The id is the first of `ID_KEYS` that an object has,
the caption the first of `CAPTION_KEYS`; a caption is a text or a list of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pmrl_jax.data.datasets.benchmarks.form import (
  Form,
  Row,
  is_list_with,
  texts_of,
)

# In the order in which they are looked for.
ID_KEYS = ("clip_id", "video_id", "image_id", "image", "id")
CAPTION_KEYS = ("desc", "caption", "vast_cap")
# Further texts, and the modality that they are read as; captions are "text".
TEXT_KEYS = {
  "subtitle": "subtitle",
  "audio_caption": "audio_caption",
  "audio_cap": "audio_caption",
  "vision_cap": "vision_caption",
}

# A clip of a film on YouTube: its id of eleven characters, then what was cut.
_YOUTUBE_CLIP = re.compile(
  r"([\w-]{11})(?:\.\d+|_\d+(?:\.\d+)?_\d+(?:\.\d+)?)", flags=re.ASCII
)


def youtube_source(item: str) -> str | None:
  """Returns the film of a clip named by film and time, or by film and number.

  >>> youtube_source("abcdefghijk_000010_000020")
  'abcdefghijk'
  >>> youtube_source("abcdefghijk.7")
  'abcdefghijk'
  >>> youtube_source("video7010") is None
  True
  """
  found = _YOUTUBE_CLIP.fullmatch(item)
  return found[1] if found else None


def _fits(content: Any) -> bool:
  return any(is_list_with(content, key) for key in ID_KEYS) and any(
    is_list_with(content, key) for key in CAPTION_KEYS
  )


def _rows(content: Any) -> list[Row]:
  return [_row(item, number) for number, item in enumerate(content)]


def _row(item: Any, number: int) -> Row:
  if not isinstance(item, dict):
    raise ValueError(f"expected an object as row {number}, got {item!r:.80}")
  key = _first(ID_KEYS, item)
  if key is None:
    raise ValueError(
      f"expected one of {list(ID_KEYS)} in row {number}, got the keys "
      f"{list(item)}"
    )
  name = item[key]
  if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
    raise ValueError(
      f"expected a name or a number as {key!r} of row {number}, got {name!r}"
    )
  texts: dict[str, list[str]] = {"text": []}
  caption = _first(CAPTION_KEYS, item)
  if caption is not None:
    texts["text"] = texts_of(item[caption], f"{caption!r} of {name!r}")
  for key, modality in TEXT_KEYS.items():
    if key in item:
      found = texts_of(item[key], f"{key!r} of {name!r}")
      texts[modality] = texts.get(modality, []) + found
  return Row(str(name), texts, youtube_source(str(name)))


def _reads(item: Mapping[str, Any]) -> set[str]:
  firsts = {_first(ID_KEYS, item), _first(CAPTION_KEYS, item)} - {None}
  return {key for key in item if key in firsts or key in TEXT_KEYS}


def _first(keys: tuple[str, ...], item: Mapping[str, Any]) -> str | None:
  return next((key for key in keys if key in item), None)


PUBLISHED = Form(
  f"a JSON list of objects with an id (first of {', '.join(ID_KEYS)}) and a "
  f"caption (first of {', '.join(CAPTION_KEYS)})",
  _fits,
  _rows,
  _reads,
)
