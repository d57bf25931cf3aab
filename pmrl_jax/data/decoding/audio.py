"""The sound of audio files and of videos, as samples."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import soundfile

from pmrl_jax.data.decoding.container import (
  check_end,
  choose_stream,
  end_of,
  libav_errors,
  lists_packets,
  num_missing_packets,
  open_container,
  prepare_decoder,
  read_only,
  require_av,
)
from pmrl_jax.data.decoding.content import (
  Content,
  is_container,
  name_of,
  num_bytes,
  open_binary,
)
from pmrl_jax.data.decoding.errors import MediaError

# Lengths in the header of a WAV file that was written before it was known.
_UNKNOWN_LENGTHS = (0, 0x7FFFFFFF)
_BLOCK = 0.1  # seconds


class Sound(NamedTuple):
  """A recording."""

  samples: np.ndarray  # float32 [channel, time]; full scale is -1 to 1
  sample_rate: int  # Hz


def read_audio(content: Content, *, stream: int | None = None) -> Sound:
  """Decodes a recording, or the sound of a video.

  Whatever the name of the file says, it is read by soundfile where that can,
  or else by libav.

  Args:
    content: the path of the file, or its bytes.
    stream: which of several audio streams, from 0; None: the first that can
      be decoded.

  Returns:
    All channels at the file's own rate. Compressed sound may go a little
    beyond full scale.

  Raises:
    MissingStreamError: if there is no sound in it, or no such stream.
    MediaError: if it cannot be read, or not to its end.
    ValueError: if `stream` is negative.
  """
  name = name_of(content)
  if not stream:
    sound = _read_with_soundfile(content, name)
    if sound is not None:
      return sound
  with open_container(content) as container:
    audio = choose_stream(container, "audio", stream=stream, name=name)
    prepare_decoder(audio)
    blocks = list(_decode(container, audio, name))
    sample_rate = audio.sample_rate
  if not blocks:
    raise MediaError(name, "its audio stream is empty")
  return Sound(np.concatenate(blocks, axis=1), sample_rate)


def _read_with_soundfile(content: Content, name: str) -> Sound | None:
  """Reads a file that soundfile reads; None for others."""
  size = num_bytes(content)
  if is_container(content):
    return None
  source = (
    open_binary(content) if isinstance(content, bytes) else os.fspath(content)
  )
  try:
    file = soundfile.SoundFile(source)
  except (soundfile.LibsndfileError, TypeError, UnicodeError):
    return None  # a TypeError is for headerless samples, named .raw
  with file:
    if file.format.startswith("WAV"):
      _check_length(content, size, name)
    try:
      samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
      raise MediaError(name, f"its sound cannot be decoded: {error}") from error
    if not file.frames:
      raise MediaError(name, "it holds no sample")
    # The length of compressed sound is that of whole blocks, here and there.
    if len(samples) < file.frames - _BLOCK * file.samplerate:
      raise MediaError(
        name,
        f"it is cut off or damaged: {len(samples)} of {file.frames} samples "
        "can be decoded",
      )
    return Sound(np.ascontiguousarray(samples.T), file.samplerate)


def _check_length(content: Content, size: int, name: str) -> None:
  """Checks that a WAV file is as long as its header says."""
  with open_binary(content) as file:
    header = file.read(8)
  promised = int.from_bytes(header[4:], "little")
  unknown, too_long = _UNKNOWN_LENGTHS
  if header[:4] == b"RIFF" and unknown < promised < too_long:
    if promised + len(header) > size + 1:  # some count a byte of padding
      raise MediaError(
        name,
        f"it is cut off: its header says {promised + len(header)} bytes, and "
        f"it has {size}",
      )


def _decode(container: Any, stream: Any, name: str) -> Iterator[np.ndarray]:
  """Decodes all of an audio stream: float32 `[channel, time]` each."""
  resampler = require_av().AudioResampler(format="fltp")
  form = None
  for packet in _packets(container, stream, name):
    with libav_errors(name, "its sound cannot be decoded"):
      for frame in stream.decode(packet):
        form = form or (frame.sample_rate, frame.layout.nb_channels)
        if form != (frame.sample_rate, frame.layout.nb_channels):
          raise MediaError(
            name, "its sample rate or its channels change in the middle"
          )
        for converted in resampler.resample(frame):
          yield converted.to_ndarray()


def _packets(container: Any, stream: Any, name: str) -> Iterator[Any]:
  """All packets of a stream, and None for their end; checks that it is."""
  is_listed, num_packets, end = lists_packets(container), 0, 0.0
  if is_listed:
    read_only(container, stream)
  for packet in container.demux():
    end = max(end, end_of(packet))
    if packet.stream_index != stream.index or not packet.size:
      continue
    if packet.is_corrupt:
      raise MediaError(name, "its sound is damaged or cut off")
    num_packets += 1
    yield packet
  missing = num_missing_packets(stream, num_packets) if is_listed else 0
  if missing:
    raise MediaError(
      name, f"it is cut off: {missing} packets of its sound are not in the file"
    )
  if not is_listed:
    check_end(container, end, name)
  yield None
