"""What a file that cannot be decoded raises, whichever library found out."""

from __future__ import annotations


class MediaError(ValueError):
  """A media file that cannot be decoded.

  Attributes:
    path: the file, or "<bytes>" for one in memory.
    reason: what is wrong with it, in a sentence.
  """

  def __init__(self, path: str, reason: str):
    """Keeps both; they are the arguments, so that pickling works."""
    super().__init__(path, reason)
    self.path = path
    self.reason = reason

  def __str__(self) -> str:
    """The path and the reason."""
    return f"{self.path}: {self.reason}"


class MissingStreamError(MediaError):
  """A sound file that has no sound, or no video, or not that many streams."""
