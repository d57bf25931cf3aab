"""Who decodes: our reader, the published one's way, and other libraries.

Each is given the path of a video and a number of frames, finds out how many
frames there are, and returns those that the published rule chooses (the middle
ones of equal groups), as uint8 `[frame, height, width, channel]`, RGB. All
decode with one thread.
"""

import functools
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from experiments.benchmarks.cases import Contestant, Skipped
from pmrl_jax.data import decoding

OURS, PUBLISHED = "pmrl_jax", "decord (published)"
# Levels of 255 that conversions to RGB may differ by.
TOLERANCE = 3


class Clip(NamedTuple):
  """What is decoded."""

  clip: str  # its name
  path: str
  num_frames: int

  def __str__(self) -> str:
    """For progress bars and goals."""
    return f"{self.num_frames} frames of {self.clip}"


class Reader(NamedTuple):
  """One way to decode, and what it needs."""

  name: str
  module: str
  packages: tuple[str, ...]  # any of these brings the module
  read: Callable[[str, int], np.ndarray]

  def version(self) -> str | None:
    """Its package and version; None if it is not installed."""
    if importlib.util.find_spec(self.module) is None:
      return None
    for package in self.packages:
      try:
        return f"{package} {importlib.metadata.version(package)}"
      except importlib.metadata.PackageNotFoundError:
        continue
    return f"{self.module}, unknown version"


def contestants() -> list[Contestant[Clip]]:
  """All readers; who is not installed says so."""
  return [
    Contestant(reader.name, PUBLISHED, functools.partial(_build, reader))
    for reader in READERS
  ]


def versions() -> dict[str, str | None]:
  """The package and version of each reader; None if it is not installed."""
  return {reader.name: reader.version() for reader in READERS}


def check_frames(found: np.ndarray, expected: np.ndarray) -> None:
  """Checks that a reader returns the frames that it should.

  Args:
    found: uint8 `[frame, height, width, channel]`.
    expected: what decoding everything gives.

  Raises:
    Skipped: If a pixel differs by more than rounding; says where.
  """
  if found.shape != expected.shape:
    raise Skipped(
      f"returns an array {found.shape}, and {expected.shape} is expected"
    )
  differences = np.abs(found.astype(np.int16) - expected).max(axis=(1, 2, 3))
  worst = int(differences.argmax())
  if differences[worst] > TOLERANCE:
    raise Skipped(
      f"returns other frames: of {len(found)}, number {worst} differs by "
      f"{differences[worst]} levels of 255, and {TOLERANCE} are allowed"
    )


def _build(reader: Reader, case: Clip) -> Callable[[], Any]:
  if reader.version() is None:
    raise Skipped(f"not installed (pip install {reader.packages[0]})")
  try:
    found = reader.read(case.path, case.num_frames)
  except (ImportError, OSError, RuntimeError) as error:
    # Some are installed but lack a library of the system.
    reason = re.sub(r"\s+", " ", str(error)).strip()
    raise Skipped(f"fails: {type(error).__name__}: {reason[:120]}") from None
  check_frames(found, _expected(case.path, case.num_frames))
  return lambda: reader.read(case.path, case.num_frames)


@functools.lru_cache(maxsize=1)
def _expected(path: str, num_frames: int) -> np.ndarray:
  """What all readers should return: everything decoded, then chosen."""
  return _pyav(path, num_frames)


def _ours(path: str, num_frames: int) -> np.ndarray:
  return decoding.read_video(path, num_frames=num_frames)


def _decord(path: str, num_frames: int) -> np.ndarray:
  """As the published reader, but for the number of threads."""
  import decord  # type: ignore[import-not-found,unused-ignore]

  video = decord.VideoReader(path, num_threads=1)
  return video.get_batch(_indices(len(video), num_frames)).asnumpy()


def _torchcodec(path: str, num_frames: int) -> np.ndarray:
  from torchcodec.decoders import (  # type: ignore[import-not-found,unused-ignore]
    VideoDecoder,
  )

  video = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1)
  indices = _indices(len(video), num_frames)
  return video.get_frames_at(indices).data.numpy()


def _opencv(path: str, num_frames: int, *, seek: bool) -> np.ndarray:
  import cv2  # type: ignore[import-not-found,unused-ignore]

  video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
  indices = _indices(int(video.get(cv2.CAP_PROP_FRAME_COUNT)), num_frames)
  frames: dict[int, np.ndarray] = {}
  at = 0
  for index in dict.fromkeys(indices):
    if seek:
      video.set(cv2.CAP_PROP_POS_FRAMES, index)
    else:
      for _ in range(index - at):
        video.grab()
      at = index + 1
    is_there, frame = video.read()
    if not is_there:
      raise RuntimeError(f"OpenCV finds no frame {index}")
    frames[index] = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
  video.release()
  return np.stack([frames[index] for index in indices])


def _pyav(path: str, num_frames: int) -> np.ndarray:
  """Decodes everything; twice if the header does not count the frames."""
  import av

  def decode() -> Any:
    with av.open(path) as container:
      context = container.streams.video[0].codec_context
      context.thread_count, context.thread_type = 1, "NONE"
      yield from container.decode(video=0)

  total = _num_listed(path) or sum(1 for _ in decode())
  indices = _indices(total, num_frames)
  wanted = set(indices)
  frames = {
    index: frame.to_ndarray(format="rgb24", threads=1)
    for index, frame in enumerate(decode())
    if index in wanted
  }
  return np.stack([frames[index] for index in indices])


def _num_listed(path: str) -> int:
  """How many frames the header says there are; 0 if it does not."""
  import av

  with av.open(path) as container:
    return container.streams.video[0].frames


def _indices(total: int, num_frames: int) -> list[int]:
  return decoding.frame_indices(total, num_frames).tolist()


READERS = (
  Reader(OURS, "av", ("av",), _ours),
  Reader(PUBLISHED, "decord", ("decord", "eva-decord"), _decord),
  Reader("torchcodec", "torchcodec", ("torchcodec",), _torchcodec),
  Reader(
    "OpenCV, in order",
    "cv2",
    ("opencv-python-headless", "opencv-python"),
    functools.partial(_opencv, seek=False),
  ),
  Reader(
    "OpenCV, seeking",
    "cv2",
    ("opencv-python-headless", "opencv-python"),
    functools.partial(_opencv, seek=True),
  ),
  Reader("PyAV, everything", "av", ("av",), _pyav),
)
