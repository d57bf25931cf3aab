"""Which file of a folder belongs to an id."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

# In the order in which they are tried: first those that published training
# code tries, then what else the collections contain.
VIDEO_EXTENSIONS = (
  *(".mp4", ".avi", ".webm", ".mkv"),
  *(".mov", ".m4v", ".mpg", ".mpeg", ".3gp", ".wmv"),
)
AUDIO_EXTENSIONS = (
  *(".wav", ".mp3", ".mkv", ".flac"),
  *(".m4a", ".ogg", ".opus", ".aac"),
)


class Found(NamedTuple):
  """What a folder holds for one id."""

  path: pathlib.Path | None  # the first in the order of names and extensions
  others: tuple[str, ...] = ()  # names of further files that fit


class MediaFolder:
  """The files of one folder, listed once.

  Names are compared as they are, extensions in lower case. Folders within are
  not searched.
  """

  def __init__(self, path: str | os.PathLike[str]):
    """Lists the folder.

    Raises:
      ValueError: if it is not a folder.
    """
    # Without symbolic links, so that files are seen to lie within it.
    self.path = pathlib.Path(path).resolve()
    if not self.path.is_dir():
      raise ValueError(f"expected a folder with media files, got {path}")
    self._files: dict[tuple[str, str], list[str]] = {}
    self.links = set()  # names of those that are symbolic links
    with os.scandir(self.path) as entries:
      for entry in entries:
        if not entry.is_file():
          continue
        stem, extension = os.path.splitext(entry.name)
        key = (stem, extension.lower())
        self._files.setdefault(key, []).append(entry.name)
        if entry.is_symlink():
          self.links.add(entry.name)

  def __len__(self) -> int:
    """The number of files."""
    return sum(map(len, self._files.values()))

  def find(self, names: Sequence[str], extensions: Sequence[str]) -> Found:
    """Looks for the file of an item.

    For every name in turn: the name itself, if it ends in one of the
    extensions; the name and an extension, in their order; if the name ends in
    an extension of media, the same without that.

    Args:
      names: the item's id, then other names that its file may have.
      extensions: in the order in which they are tried.

    Returns:
      The first file that fits, and the others.
    """
    found: list[str] = []
    for name in names:
      stem, extension = os.path.splitext(name)
      extension = extension.lower()
      keys = [(name, other) for other in extensions]
      if extension in VIDEO_EXTENSIONS or extension in AUDIO_EXTENSIONS:
        keys += [(stem, other) for other in extensions]
      if extension in extensions:
        keys.insert(0, (stem, extension))
      for key in keys:
        found += sorted(self._files.get(key, ()))
    found = list(dict.fromkeys(found))
    if not found:
      return Found(None)
    return Found(self.path / found[0], tuple(found[1:]))


def has_sound(path: pathlib.Path) -> bool | None:
  """Whether a video has a sound track; None if it cannot be read."""
  # Decoding needs packages that reading annotations does not.
  from pmrl_jax.data.decoding import MediaError, probe

  try:
    return bool(probe(path, "video").has_audio)
  except MediaError:
    return None
