"""Subtitle files, SubRip (.srt) and WebVTT (.vtt), as plain text."""

from __future__ import annotations

import html
import os
import pathlib
import re
from typing import NamedTuple

_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{2})[.,](\d{1,3})"
_TIMING = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
# <i>, </v>, <c.yellow>, <00:00:01.500> and {\an8}; not the "<" of "a < b".
_MARKUP = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:]*:[\d.]+>|\{\\[^{}]*\}")


class Cue(NamedTuple):
  """What is shown for a while."""

  start: float  # seconds
  end: float  # seconds
  lines: tuple[str, ...]  # without markup


def parse_subtitles(content: str) -> list[Cue]:
  r"""Parses the content of an `.srt` or `.vtt` file.

  Args:
    content: the file's text.

  Returns:
    The cues in the file's order; comments and style sheets are left out.

  Raises:
    ValueError: if the content is neither of the two.

  >>> parse_subtitles("1\n00:00:01,500 --> 00:00:03,000\n<i>Well,</i> no.\n")
  [Cue(start=1.5, end=3.0, lines=('Well, no.',))]
  """
  cues: list[tuple[float, float, list[str]]] = []
  inside = False
  for line in content.removeprefix("\ufeff").splitlines():
    if timing := _TIMING.match(line):
      # A file may lack the blank line; then the next cue's number came first.
      if inside and cues[-1][2] and cues[-1][2][-1].strip().isdecimal():
        cues[-1][2].pop()
      numbers = timing.groups(default="0")
      cues.append((_seconds(*numbers[:4]), _seconds(*numbers[4:]), []))
      inside = True
    elif not line.strip():
      inside = False
    elif inside:
      cues[-1][2].append(line)
  if not cues and content.strip() and "WEBVTT" not in content[:8]:
    raise ValueError(
      "expected subtitles as .srt or .vtt, with lines such as "
      f'"00:01:02,500 --> 00:01:05,000", got {content[:40]!r}'
    )
  return [
    Cue(start, end, tuple(filter(None, map(_plain, lines))))
    for start, end, lines in cues
  ]


def read_subtitles(
  path: str | os.PathLike[str],
  *,
  start: float = 0.0,
  end: float = float("inf"),
  encoding: str = "utf-8",
) -> str:
  """Reads what is said in a subtitle file, or in a part of it, as one text.

  A line that repeats the one before is left out: automatic captions show each
  line once as the new one and once as the old one.

  Args:
    path: the file, `.srt` or `.vtt`.
    start: cues that end before are left out, in seconds; for a clip that was
      cut from a longer video.
    end: cues that begin after are left out, in seconds.
    encoding: the file's; older ones are often "cp1252".

  Returns:
    The lines, joined by spaces; "" if nothing is said.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if the encoding is another one, or the file no subtitles.
  """
  try:
    content = pathlib.Path(path).read_bytes().decode(encoding)
    cues = parse_subtitles(content)
  except UnicodeDecodeError as error:
    raise ValueError(
      f"{path} is not encoded as {encoding} (byte {error.start}); pass "
      'encoding=, such as "cp1252" or "utf-16"'
    ) from error
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  kept: list[str] = []
  for cue in cues:
    if cue.end <= start or cue.start >= end:
      continue
    for line in cue.lines:
      if not kept or line != kept[-1]:
        kept.append(line)
  return " ".join(kept)


def _seconds(hours: str, minutes: str, seconds: str, fraction: str) -> float:
  return (
    3600 * int(hours)
    + 60 * int(minutes)
    + int(seconds)
    + float(f"0.{fraction}")
  )


def _plain(line: str) -> str:
  return " ".join(html.unescape(_MARKUP.sub("", line)).split())
