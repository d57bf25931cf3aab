"""Which frames a video holds, from its packets: nothing is decoded for it.

A packet says when its frame is shown (pts) and whether decoding can start at
it; packets come in the order of decoding. So the packets of a file, sorted by
pts, are its frames, and what has to be decoded for some of them is known
before.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from pmrl_jax.data.decoding.container import (
  check_end,
  format_names,
  libav_errors,
  lists_packets,
  num_missing_packets,
  read_only,
  seconds,
)
from pmrl_jax.data.decoding.errors import MediaError

# Formats that keep the pts of every packet, and in which a seek arrives where
# it should. (AVI keeps no pts, and MPEG-TS is searched by guessing.)
_KEEP_PTS = frozenset({"flv", "matroska", "mp4"})
# Codecs of which a packet is a frame, and not a field or several frames.
_ONE_FRAME_PER_PACKET = frozenset(
  "av1 dnxhd ffv1 h264 hevc mjpeg mpeg2video mpeg4 prores vp8 vp9".split()
)
_PROGRESSIVE = 1  # AVFieldOrder; 0 is unknown
_VP8_SHOWN = 0x10  # a bit of a packet's first byte


class PacketTable(NamedTuple):
  """The packets of one stream, in the order of decoding."""

  pts: list[int]  # [packet], all different
  keys: list[int]  # the packets that decoding can start at
  shown: list[int]  # the packets whose frames are shown, in this order
  num_missing: int  # packets that the header lists and the file lacks
  last_dts: int | None  # when the last packet has to be decoded
  time_base: Fraction  # seconds per tick of pts and dts

  @property
  def num_frames(self) -> int:
    """How many frames decoding the whole file gives, or should give."""
    return len(self.shown) + self.num_missing

  def times(self) -> np.ndarray:
    """Seconds from the first frame: float64 `[frame]`, ascending.

    Those of missing frames follow at the mean distance of the others.
    """
    ticks = np.array([self.pts[position] for position in self.shown])
    times = (ticks - ticks[0]) * float(self.time_base)
    step = times[-1] / max(len(times) - 1, 1)
    rest = times[-1] + step * np.arange(1, self.num_missing + 1)
    return np.concatenate([times, rest])

  @property
  def is_reordered(self) -> bool:
    """Whether some frame is shown before one that is decoded earlier."""
    return self.shown != sorted(self.shown)

  def num_certain(self) -> int:
    """How many of the first frames are there for certain, and in this order.

    A missing packet comes later in the order of decoding, and no frame is
    shown before it is decoded.
    """
    if not self.num_missing:
      return len(self.shown)
    if self.last_dts is None:
      return 0
    return bisect.bisect_right(
      self.shown, self.last_dts, key=self.pts.__getitem__
    )


class Run(NamedTuple):
  """Packets to be decoded one after the other."""

  lead_in: int  # where the decoder starts; what fails until `start` may fail
  start: int  # the key frame that the wanted ones depend on
  stop: int  # the last one
  wanted: set[int]  # the ones whose frames are wanted


def read_packets(container: Any, stream: Any, name: str) -> PacketTable | None:
  """Lists the packets of a video stream.

  Args:
    container: PyAV's container, before anything was read from it.
    stream: its video stream.
    name: the file, for messages.

  Returns:
    The table; None if its packets do not tell the frames.

  Raises:
    MediaError: if the file holds no frame of it, is cut off, or broken between
      packets.
  """
  pts: list[Any] = []
  keys: list[int] = []
  shown: list[int] = []
  ends: dict[int, int] = {}  # {stream: ticks}, which are cheap to compare
  last_dts = None
  failure: MediaError | None = None
  is_vp8 = stream.codec_context.codec.canonical_name == "vp8"
  is_listed = lists_packets(container)
  num_listed = len(stream.index_entries)
  if is_listed and num_listed == stream.frames > 0:
    read_only(container, stream)
  try:
    with libav_errors(name):
      for packet in container.demux():
        if not packet.size or (packet.is_corrupt and is_listed):
          continue  # the mark of the end; or what the file's end cut
        if packet.pts is not None:
          ends[packet.stream_index] = max(
            ends.get(packet.stream_index, 0),
            packet.pts + (packet.duration or 0),
          )
        if packet.stream_index != stream.index:
          continue
        if packet.is_keyframe:
          keys.append(len(pts))
        if not packet.is_discard and not (
          is_vp8 and not memoryview(packet)[0] & _VP8_SHOWN
        ):
          shown.append(len(pts))
        pts.append(packet.pts)
        last_dts = packet.dts
  except MediaError as error:
    failure = error
  num_missing = num_missing_packets(stream, len(pts)) if is_listed else 0
  if failure and not num_missing:
    raise failure
  if not is_listed or len(stream.index_entries) > num_listed:
    times = (
      seconds(ticks, container.streams[index].time_base) or 0.0
      for index, ticks in ends.items()
    )
    check_end(container, max(times, default=0.0), name)
  if not shown:
    raise MediaError(name, "it holds no frame of its video")
  if not _tell_frames(container, stream, pts):
    return None
  shown.sort(key=pts.__getitem__)
  return PacketTable(pts, keys, shown, num_missing, last_dts, stream.time_base)


def plan(
  table: PacketTable, wanted: Iterable[int], *, num_lead_in: int = 0
) -> list[Run] | None:
  """Says what to decode for some frames.

  Args:
    table: the packets.
    wanted: the packets of the wanted frames.
    num_lead_in: how many key frames earlier than necessary to start.

  Returns:
    The runs, in the order of decoding; None if the wanted frames come before
    any packet that decoding can start at.
  """
  runs: list[Run] = []
  for position in sorted(wanted):
    number = bisect.bisect_right(table.keys, position) - 1
    # A frame that comes after a key frame but is shown before it may refer to
    # what came before both.
    while number >= 0 and table.pts[table.keys[number]] > table.pts[position]:
      number -= 1
    if number < 0:
      return None
    lead_in = table.keys[max(number - num_lead_in, 0)]
    start, together = table.keys[number], {position}
    while runs and lead_in <= runs[-1].stop:
      before = runs.pop()
      lead_in = min(lead_in, before.lead_in)
      start = min(start, before.start)
      together |= before.wanted
    runs.append(Run(lead_in, start, position, together))
  return runs


def _tell_frames(container: Any, stream: Any, pts: list[int | None]) -> bool:
  """Whether the frames of a stream are its packets, sorted by pts."""
  context = stream.codec_context
  return (
    not _KEEP_PTS.isdisjoint(format_names(container))
    and context.codec.canonical_name in _ONE_FRAME_PER_PACKET
    and context.field_order <= _PROGRESSIVE
    and None not in pts
    and len(set(pts)) == len(pts)
  )
