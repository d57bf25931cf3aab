"""What is decoded: a file by its path, or its bytes in memory."""

from __future__ import annotations

import io
import os
import stat
from typing import BinaryIO, TypeAlias

from pmrl_jax.data.decoding.errors import MediaError

# An encoded file: its path, or all of its bytes.
Content: TypeAlias = str | os.PathLike[str] | bytes


def name_of(content: Content) -> str:
  """Returns how messages call a file: its path or "<bytes>".

  Raises:
    TypeError: if it is neither a path nor bytes.
  """
  if isinstance(content, bytes):
    return "<bytes>"
  if isinstance(content, str | os.PathLike):
    return os.fspath(content)
  raise TypeError(
    "expected the path of a media file or its bytes, got "
    f"{type(content).__name__}"
  )


def num_bytes(content: Content) -> int:
  """Returns the size of a file; there is one that is not empty after this.

  Args:
    content: the file.

  Returns:
    The number of bytes, at least 1.

  Raises:
    MediaError: if there is no such file, it is empty, or no regular file
      (a pipe would be waited for).
  """
  name = name_of(content)
  if isinstance(content, bytes):
    size = len(content)
  else:
    try:
      status = os.stat(content)
    except (FileNotFoundError, NotADirectoryError) as error:
      raise MediaError(name, "there is no such file") from error
    except (OSError, ValueError) as error:
      raise MediaError(name, f"it cannot be opened: {error}") from error
    if stat.S_ISDIR(status.st_mode):
      raise MediaError(name, "it is a folder, and a media file was expected")
    if not stat.S_ISREG(status.st_mode):
      raise MediaError(name, "it is a device or a pipe, not a regular file")
    size = status.st_size
  if not size:
    raise MediaError(name, "the file is empty (0 bytes)")
  return size


def open_binary(content: Content) -> BinaryIO:
  """Opens a file for reading bytes.

  Raises:
    MediaError: if it cannot be opened.
  """
  num_bytes(content)
  if isinstance(content, bytes):
    return io.BytesIO(content)
  try:
    return open(content, "rb")
  except OSError as error:
    raise MediaError(
      name_of(content), f"it cannot be opened: {error.strerror}"
    ) from error


def is_container(content: Content) -> bool:
  """Whether a file begins as MP4 or Matroska do, whatever its name.

  libsndfile believes the name `.mp3`, and finds frames in them that are none.
  """
  with open_binary(content) as file:
    begin = file.read(8)
  return begin[4:] == b"ftyp" or begin[:4] == b"\x1aE\xdf\xa3"
