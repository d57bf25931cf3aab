"""A few frames of a video, exactly, and without decoding all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pmrl_jax.data.decoding.container import (
  choose_stream,
  open_container,
  prepare_decoder,
)
from pmrl_jax.data.decoding.content import Content, name_of
from pmrl_jax.data.decoding.errors import MediaError
from pmrl_jax.data.decoding.packets import PacketTable, read_packets
from pmrl_jax.data.decoding.pixels import Clip, Size, check_size
from pmrl_jax.data.decoding.runs import decode_all, decode_packets


class Frames(NamedTuple):
  """Frames of a video."""

  frames: np.ndarray  # uint8 [frame, height, width, channel], RGB
  indices: np.ndarray  # int64 [frame], among all frames of the video
  times: np.ndarray  # float64 [frame], seconds from its first frame
  num_frames: int  # how many the video has in all


def frame_indices(
  total: int, num_frames: int, rng: np.random.Generator | None = None
) -> np.ndarray:
  """Chooses frames that are spread over a video, by the published rule.

  The frames are split into contiguous groups of equal length, of which the
  first `total % num_frames` are one longer, and each group gives one frame. A
  video with too few frames repeats its last one.

  >>> frame_indices(10, 3)
  array([1, 5, 8])
  >>> frame_indices(2, 3)
  array([0, 1, 1])

  Args:
    total: how many frames the video has.
    num_frames: how many to choose.
    rng: chooses any frame of a group; None: the middle one, or of two middle
      ones the first. One number is drawn for each frame, however long the
      video is.

  Returns:
    int64 `[num_frames]`, ascending.

  Raises:
    ValueError: if one of the numbers is not positive.
  """
  if total < 1 or num_frames < 1:
    raise ValueError(
      "expected at least one frame, and at least one to choose, got "
      f"total={total} and num_frames={num_frames}"
    )
  draws = None if rng is None else rng.random(num_frames)
  return _spread(total, num_frames, draws)


def read_video(
  content: Content,
  *,
  num_frames: int,
  rng: np.random.Generator | None = None,
  stream: int | None = None,
  size: Size = None,
  num_threads: int = 1,
) -> np.ndarray:
  """Decodes frames that are spread over a video, see `frame_indices`.

  Args:
    content: the path of the file, or its bytes.
    num_frames: how many frames.
    rng: chooses them at random; None: from the middle of each group.
    stream: which of several video streams, from 0; None: the first that can
      be decoded.
    size: scales to a shorter side of so many pixels, or to
      `(height, width)`, in the same pass as the conversion to RGB, which is
      cheaper than a large picture scaled later. Bilinear, and antialiased
      where it shrinks.
    num_threads: of the decoder. One is the most work per core, and right
      where several workers decode.

  Returns:
    uint8 `[num_frames, height, width, channel]`, RGB, turned upright. These
    are the frames that decoding everything would give, to the last bit.

  Raises:
    MediaError: if it cannot be read, or one of the frames not decoded.
    ValueError: if a number or the size makes no sense.
  """
  frame_indices(1, num_frames)  # checks the number
  draws = None if rng is None else rng.random(num_frames)

  def choose(times: np.ndarray) -> np.ndarray:
    return _spread(len(times), num_frames, draws)

  return read_frames(
    content, choose, stream=stream, size=size, num_threads=num_threads
  ).frames


def read_frames(
  content: Content,
  choose: Callable[[np.ndarray], np.ndarray],
  *,
  stream: int | None = None,
  size: Size = None,
  num_threads: int = 1,
) -> Frames:
  """Decodes chosen frames of a video.

  All packets are read, and only those decoded that the chosen frames depend
  on: from the last key frame before each, without what nothing refers to.

  Args:
    content: the path of the file, or its bytes.
    choose: is given the times of all frames, float64 `[frame]` in seconds from
      the first, and returns the indices of those to decode, in any order. May
      be asked more than once.
    stream: see `read_video`.
    size: see `read_video`.
    num_threads: see `read_video`.

  Returns:
    The frames, in the order of their indices.

  Raises:
    MediaError: if it cannot be read, or one of the frames not decoded.
    ValueError: if a number or the size makes no sense.
  """
  check_size(size)
  if num_threads < 1:
    raise ValueError(f"num_threads must be positive, got {num_threads}")
  name = name_of(content)
  # Opened without decoding, which is all that most files need.
  for decodes in (False, True):
    with open_container(content, decodes=decodes) as container:
      video = choose_stream(container, "video", stream=stream, name=name)
      prepare_decoder(video, num_threads)
      table = read_packets(container, video, name)
      if table is None:
        break
      if not decodes and _has_unknown_delay(video, table):
        continue
      times = table.times()
      clip = Clip(choose(times), len(times), size)
      if decode_packets(container, video, table, clip, name):
        return Frames(
          clip.frames(), clip.indices, times[clip.indices], len(times)
        )
  return _read_all(content, choose, stream, size, num_threads)


def _has_unknown_delay(video: Any, table: PacketTable) -> bool:
  """Whether a decoder would have to learn that frames are reordered.

  It drops frames until it has.
  """
  return table.is_reordered and not video.codec_context.has_b_frames


def _read_all(
  content: Content,
  choose: Callable[[np.ndarray], np.ndarray],
  stream: int | None,
  size: Size,
  num_threads: int,
) -> Frames:
  """Reads a video whose packets do not tell its frames.

  It is decoded once for the times of all frames, and once more for the chosen
  ones, since all together might not fit.
  """
  name = name_of(content)

  def frames() -> Iterator[Any]:
    with open_container(content) as container:
      video = choose_stream(container, "video", stream=stream, name=name)
      prepare_decoder(video, num_threads)
      yield from decode_all(container, video, name)

  times = np.array([time for time, _ in frames()])
  if not times.size:
    raise MediaError(name, "it holds no frame of its video")
  times -= times[0]
  clip = Clip(choose(times), len(times), size)
  for index, (_, frame) in enumerate(frames()):
    clip.put(index, frame)
    if not clip.missing:
      break
  return Frames(clip.frames(), clip.indices, times[clip.indices], len(times))


def _spread(
  total: int, num_frames: int, draws: np.ndarray | None
) -> np.ndarray:
  """Chooses by the rule; `draws` `[num_frames]` are between 0 and 1."""
  if total <= num_frames:
    return np.minimum(np.arange(num_frames), total - 1)
  short, num_longer = divmod(total, num_frames)
  group = np.arange(num_frames)
  lengths = short + (group < num_longer)
  starts = group * short + np.minimum(group, num_longer)
  if draws is None:
    return starts + (lengths + 1) // 2 - 1
  return starts + (draws * lengths).astype(np.int64)
