"""What a media file is, from its headers: nothing is decoded."""

from __future__ import annotations

import os
from typing import Any, NamedTuple, cast

import soundfile

from pmrl_jax.data.decoding.container import (
  choose_stream,
  open_container,
  require_av,
  seconds,
  streams_of,
)
from pmrl_jax.data.decoding.content import (
  Content,
  is_container,
  name_of,
  num_bytes,
  open_binary,
)
from pmrl_jax.data.decoding.image import open_image

KINDS = ("video", "audio", "image")
_ORIENTATION = 0x0112  # a tag of EXIF
_TURNED = (5, 6, 7, 8)  # its values for a quarter turn


class MediaInfo(NamedTuple):
  """What the headers of a file say; None where they do not, or cannot."""

  kind: str  # "video", "audio" or "image"
  duration: float | None = None  # seconds
  width: int | None = None  # pixels; of an image, upright
  height: int | None = None
  num_frames: int | None = None
  frame_rate: float | None = None  # frames per second, on average
  sample_rate: int | None = None  # Hz; of a video, its first sound's
  num_channels: int | None = None
  codec: str | None = None
  num_bytes: int = 0
  has_audio: bool = False


def probe(content: Content, kind: str) -> MediaInfo:
  """Reads the headers of a file.

  Args:
    content: the path of the file, or its bytes.
    kind: what it is to be: "video", "audio" or "image".

  Returns:
    What they say, of the streams that would be decoded.

  Raises:
    MissingStreamError: if it has no stream of that kind.
    MediaError: if it cannot be read.
    ValueError: if there is no such kind.
  """
  if kind not in KINDS:
    raise ValueError(f"expected one of the kinds {KINDS}, got {kind!r}")
  size = num_bytes(content)
  if kind == "image":
    info = _image(content)
  elif kind == "video":
    info = _video(content)
  else:
    info = _audio(content)
  return info._replace(num_bytes=size)


def _image(content: Content) -> MediaInfo:
  with open_image(content) as image:
    width, height = image.size
    if image.getexif().get(_ORIENTATION) in _TURNED:
      width, height = height, width
    return MediaInfo(
      "image",
      width=width,
      height=height,
      num_frames=getattr(image, "n_frames", 1),
      codec=cast(str, image.format).lower(),
    )


def _video(content: Content) -> MediaInfo:
  with open_container(content) as container:
    video = choose_stream(
      container, "video", stream=None, name=name_of(content)
    )
    sounds = streams_of(container, "audio")
    heard = [sound for sound in sounds if sound.codec_context is not None]
    rate = video.average_rate
    return MediaInfo(
      "video",
      duration=_duration(container, video),
      width=video.width,
      height=video.height,
      num_frames=video.frames or None,
      frame_rate=float(rate) if rate else None,
      sample_rate=heard[0].sample_rate if heard else None,
      num_channels=heard[0].channels if heard else None,
      codec=video.codec_context.codec.canonical_name,
      has_audio=bool(sounds),
    )


def _audio(content: Content) -> MediaInfo:
  if is_container(content):
    return _audio_of_container(content)
  source: Any = (
    open_binary(content) if isinstance(content, bytes) else os.fspath(content)
  )
  try:
    header = soundfile.info(source)
  except (soundfile.LibsndfileError, TypeError, UnicodeError):
    return _audio_of_container(content)
  return MediaInfo(
    "audio",
    duration=header.frames / header.samplerate,
    sample_rate=header.samplerate,
    num_channels=header.channels,
    codec=header.subtype.lower(),
    has_audio=True,
  )


def _audio_of_container(content: Content) -> MediaInfo:
  with open_container(content) as container:
    audio = choose_stream(
      container, "audio", stream=None, name=name_of(content)
    )
    return MediaInfo(
      "audio",
      duration=_duration(container, audio),
      sample_rate=audio.sample_rate,
      num_channels=audio.channels,
      codec=audio.codec_context.codec.canonical_name,
      has_audio=True,
    )


def _duration(container: Any, stream: Any) -> float | None:
  """The duration of a stream, or else of the whole file."""
  own = seconds(stream.duration, stream.time_base)
  if own is None and container.duration is not None:
    return container.duration / require_av().time_base
  return own
