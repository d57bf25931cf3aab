"""Files as libav sees them: opened, their streams chosen, errors translated."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from pmrl_jax.data.decoding.content import Content, name_of, num_bytes
from pmrl_jax.data.decoding.errors import MediaError, MissingStreamError

if TYPE_CHECKING:
  from av.container import InputContainer

# Formats that hold their own media. Others that libav knows are playlists,
# which would open further files, or would take any text for a picture.
_FORMATS = (
  "aac ac3 aiff amr ape apng asf au av1 avi caf dts dv eac3 flac flv gif h264 "
  "hevc ivf m4v matroska mov mp3 mpc8 mpeg mpegts mpegvideo mxf nut obu ogg rm "
  "tta w64 wav wtv wv"
)


# Formats whose header gives a duration that their packets have to reach.
_KEEP_DURATION = frozenset({"avi", "matroska", "mp4"})


def require_av() -> ModuleType:
  """Returns the module `av` (PyAV).

  Raises:
    ImportError: without it; says how to install it.
  """
  try:
    import av
  except ImportError as error:
    raise ImportError(
      "decoding video needs PyAV; install it with pip install 'pmrl_jax[media]'"
    ) from error
  return av


@contextlib.contextmanager
def libav_errors(name: str, doing: str = "libav cannot read it") -> Iterator:
  """Turns what libav raises within into a `MediaError`.

  Args:
    name: the file, for the message.
    doing: the beginning of the reason.
  """
  av = require_av()
  try:
    yield
  except MediaError:
    raise
  except (av.FFmpegError, UnicodeError) as error:
    what = getattr(error, "strerror", None) or str(error)
    raise MediaError(name, f"{doing}: {what}") from error


@contextlib.contextmanager
def open_container(
  content: Content, *, decodes: bool = True
) -> Iterator[InputContainer]:
  """Opens a file with libav, and closes it after.

  Args:
    content: the file.
    decodes: whether libav decodes the first frames, to know what headers may
      not say: pixel formats, the properties of sound, and how far frames are
      shown out of the order of decoding. Costs as much as the key frame.

  Yields:
    The container.

  Raises:
    MediaError: if it cannot be read; also for what libav raises later.
  """
  name, av = name_of(content), require_av()
  num_bytes(content)
  # With the prefix, a path is a path, however much it looks like an address.
  file: Any = (
    io.BytesIO(content)
    if isinstance(content, bytes)
    else "file:" + os.fspath(content)
  )
  options = {
    "format_whitelist": _FORMATS.replace(" ", ","),
    "protocol_whitelist": "file",
  }
  if not decodes:
    options["skip_frame"] = "all"  # of the decoders that look for it
  with libav_errors(name):
    with libav_errors(name, "it is cut off, or no media file that libav knows"):
      container = av.open(file, options=options, **_lenient(av))
    with container:
      yield container


def _lenient(av: ModuleType) -> dict[str, str]:
  """What lets titles in an unknown encoding pass; as a rule since PyAV 19."""
  is_old = int(av.__version__.partition(".")[0]) < 19
  return {"metadata_errors": "replace"} if is_old else {}


def choose_stream(
  container: InputContainer,
  kind: Literal["video", "audio"],
  *,
  stream: int | None,
  name: str,
) -> Any:
  """Returns one stream of a container.

  Args:
    container: where from.
    kind: of which kind.
    stream: its number among the streams of this kind, from 0; None: the first
      that there is a decoder for.
    name: the file, for messages.

  Returns:
    The stream of PyAV.

  Raises:
    MissingStreamError: if there is none.
    MediaError: if there is no decoder for it.
    ValueError: if the number is negative.
  """
  if stream is not None and stream < 0:
    raise ValueError(
      f"stream counts the {kind} streams of a file from 0, got {stream}"
    )
  found = streams_of(container, kind)
  if not found:
    raise MissingStreamError(name, f"it has no {kind} stream")
  if stream is not None and stream >= len(found):
    raise MissingStreamError(
      name,
      f"it has no {kind} stream {stream}, since it has {len(found)} of them, "
      "counted from 0",
    )
  candidates = found if stream is None else [found[stream]]
  for candidate in candidates:
    if candidate.codec_context is not None:
      return candidate
  raise MediaError(name, f"libav has no decoder for its {kind} stream")


def streams_of(container: InputContainer, kind: str) -> list[Any]:
  """The streams of a kind; the picture on a record's cover is no video."""
  from av.stream import Disposition

  return [
    stream
    for stream in container.streams
    if stream.type == kind and not stream.disposition & Disposition.attached_pic
  ]


def prepare_decoder(stream: Any, num_threads: int = 1) -> None:
  """Sets how a stream is decoded, before its first packet is.

  Damage is an error. By default, decoders would hide it: they fill in what is
  missing from neighbours, and hardly tell.
  """
  context = stream.codec_context
  context.options = {"err_detect": "explode"}
  context.thread_count = num_threads
  context.thread_type = "AUTO" if num_threads > 1 else "NONE"


def read_only(container: InputContainer, stream: Any) -> None:
  """Lets the demuxer drop the packets of all other streams."""
  from av.stream import Discard

  for other in container.streams:
    wanted = other.index == stream.index
    other.discard = Discard.default if wanted else Discard.all


def seconds(ticks: int | None, time_base: Any) -> float | None:
  """A time of libav in seconds; None stays None."""
  if ticks is None or time_base is None:
    return None
  return float(ticks * time_base)


def format_names(container: InputContainer) -> list[str]:
  """What libav calls a container's format: "matroska,webm" are two names."""
  return container.format.name.split(",")


def lists_packets(container: InputContainer) -> bool:
  """Whether headers list all packets: those of MP4 do, of its fragments too.

  Other formats list key frames only, or empty packets as well.
  """
  return "mp4" in format_names(container)


def num_missing_packets(stream: Any, num_found: int) -> int:
  """How many of the packets that headers list are not in the file."""
  entries = stream.index_entries
  if len(entries) <= num_found:
    return 0
  return max(0, sum(entry.size > 0 for entry in entries) - num_found)


def check_end(container: InputContainer, end: float, name: str) -> None:
  """Checks that a file reaches the duration in its header, if it has one.

  Args:
    container: where its packets came from.
    end: when the last of all its packets ends, in seconds.
    name: the file, for messages.

  Raises:
    MediaError: if it does not.
  """
  if _KEEP_DURATION.isdisjoint(format_names(container)):
    return
  duration = (container.duration or 0) / require_av().time_base
  if end < duration - max(0.5, 0.02 * duration):
    raise MediaError(
      name,
      f"it is cut off: it ends after {end:.1f} s, and its header says "
      f"{duration:.1f} s",
    )


def end_of(packet: Any) -> float:
  """When what is in a packet ends, in seconds."""
  if packet.pts is None:
    return 0.0
  return seconds(packet.pts + (packet.duration or 0), packet.time_base) or 0.0
