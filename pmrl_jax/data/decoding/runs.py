"""Decodes the packets that wanted frames depend on, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pmrl_jax.data.decoding.container import (
  read_only,
  require_av,
  seconds,
)
from pmrl_jax.data.decoding.errors import MediaError
from pmrl_jax.data.decoding.packets import PacketTable, Run, plan
from pmrl_jax.data.decoding.pixels import Clip

# Codecs that mark the frames no other refers to. (HEVC does so only within a
# temporal layer; a frame that it marks may be referred to from a higher one.)
_MARK_UNREFERENCED = frozenset({"h264", "mpeg2video", "mpeg4"})
_INTRA = 1  # AVPictureType


def decode_packets(
  container: Any, stream: Any, table: PacketTable, clip: Clip, name: str
) -> bool:
  """Decodes the missing frames of a clip.

  Args:
    container: PyAV's container.
    stream: its video stream.
    table: all packets of that.
    clip: is filled in.
    name: the file, for messages.

  Returns:
    Whether the clip is complete. If not, all has to be decoded from the
    beginning, to come by the rest or to know that it is broken.

  Raises:
    MediaError: if one of the frames is cut off.
  """
  num_certain, last = table.num_certain(), max(clip.missing)
  if last >= num_certain:
    raise MediaError(
      name,
      f"it is cut off: frame {last} of {table.num_frames} is not in the file",
    )
  read_only(container, stream)
  # What follows a key frame may name frames before it, to say that they are
  # no longer needed. Decoders that start there take this for damage; so if it
  # does not go without, they start one key frame earlier.
  return any(
    _decode_runs(container, stream, table, clip, num_lead_in)
    for num_lead_in in (0, 1)
  )


def _decode_runs(
  container: Any, stream: Any, table: PacketTable, clip: Clip, num_lead_in: int
) -> bool:
  """Decodes the missing frames of a clip; returns whether all went well."""
  av = require_av()
  indices = {table.shown[index]: index for index in clip.missing}
  of_pts = {table.pts[position]: index for position, index in indices.items()}
  positions = {pts: position for position, pts in enumerate(table.pts)}
  try:
    for run in plan(table, indices, num_lead_in=num_lead_in) or ():
      for frame in _frames(container, stream, table, positions, run):
        index = of_pts.get(frame.pts)
        if index is None:
          continue
        if frame.is_corrupt:
          return False
        clip.put(index, frame)
  except av.FFmpegError:
    return False
  return not clip.missing


def decode_all(
  container: Any, stream: Any, name: str
) -> Iterator[tuple[float, Any]]:
  """Decodes all frames of a stream, from its beginning.

  Args:
    container: PyAV's container, before anything was read from it.
    stream: its video stream.
    name: the file, for messages.

  Yields:
    The time in seconds and the frame.

  Raises:
    MediaError: if one cannot be decoded; but a stream may start with what
      refers to frames before its beginning.
  """
  av = require_av()
  rate = stream.average_rate or stream.base_rate or 1
  index = 0
  for packet in container.demux(stream):
    if packet.is_corrupt:
      raise MediaError(name, f"it is damaged or cut off after frame {index}")
    try:
      frames = stream.decode(packet)
    except av.FFmpegError as error:
      if not index:
        continue
      raise MediaError(
        name, f"it cannot be decoded after frame {index - 1}: {error.strerror}"
      ) from error
    for frame in frames:
      if frame.is_corrupt:
        raise MediaError(name, f"its frame {index} is damaged")
      time = seconds(frame.pts, frame.time_base)
      yield index / float(rate) if time is None else time, frame
      index += 1


def _frames(
  container: Any,
  stream: Any,
  table: PacketTable,
  positions: dict[int, int],
  run: Run,
) -> Iterator[Any]:
  """Decodes one run; ends early if decoding cannot start where it should."""
  av, context = require_av(), stream.codec_context
  may_skip = context.codec.canonical_name in _MARK_UNREFERENCED
  first = table.pts[run.start]
  # What starts at the first packet is what decoding everything does.
  has_started = not run.start
  container.seek(table.pts[run.lead_in], stream=stream)
  for packet in container.demux(stream):
    position = positions.get(packet.pts, -1)
    if position < run.lead_in:
      continue
    is_needed = position >= run.start and packet.pts >= first
    if packet.is_corrupt and is_needed:
      return
    is_skippable = may_skip and position not in run.wanted
    context.skip_frame = "NONREF" if is_skippable else "DEFAULT"
    try:
      frames = context.decode(packet)
    except av.FFmpegError:
      # Frames shown before the key frame may lack what they refer to.
      if is_needed:
        raise
      continue
    if position >= run.stop:
      # All that its last frame depends on is in the decoder; no need to push
      # it out with further packets.
      frames += context.decode(None)
    for frame in frames:
      has_started |= frame.pts == first and frame.pict_type == _INTRA
      if has_started:
        yield frame
      elif frame.pts >= first:
        return  # a key frame that is none: some refresh a picture bit by bit
    if position >= run.stop:
      return
