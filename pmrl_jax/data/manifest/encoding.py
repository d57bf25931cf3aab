"""Media as they are stored: frames as JPEG, sound as FLAC."""

from __future__ import annotations

import dataclasses
import io
import pathlib
from typing import Any

import numpy as np
import PIL.Image
import soundfile


@dataclasses.dataclass(frozen=True)
class Encoding:
  """How media are stored.

  Attributes:
    num_frames: how many frames of a video, spread over it by the published
      rule; a video with fewer gives all of them.
    frames_per_second: instead of a number, so many of every second. One of
      the two must be None.
    shorter_side: the length, in pixels, that the shorter side of frames and
      images has at most; larger ones are scaled down. None keeps their size.
    jpeg_quality: of frames and of images that are scaled, 1 to 95.
    sample_rate: the rate of sounds, in Hz; None keeps theirs.
    mono: whether the channels of a sound become one, their mean.
  """

  num_frames: int | None = 32
  frames_per_second: float | None = None
  shorter_side: int | None = 256
  jpeg_quality: int = 90
  sample_rate: int | None = None
  mono: bool = True

  def __post_init__(self) -> None:
    """Checks the numbers."""
    if (self.num_frames is None) == (self.frames_per_second is None):
      raise ValueError(
        "expected either num_frames or frames_per_second, got "
        f"{self.num_frames} and {self.frames_per_second}"
      )
    for name in (
      "num_frames", "frames_per_second", "shorter_side", "sample_rate"
    ):  # fmt: skip
      value = getattr(self, name)
      if value is not None and not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
    if not 1 <= self.jpeg_quality <= 95:
      raise ValueError(
        f"jpeg_quality must be from 1 to 95, got {self.jpeg_quality}"
      )


def encode_video(path: pathlib.Path, encoding: Encoding) -> dict[str, Any]:
  """Encodes frames of a video.

  Args:
    path: the video.
    encoding: which frames, and how they are stored.

  Returns:
    {"frames": JPEG files, "times": float32 [frame], seconds from the first
    frame of the video}.

  Raises:
    ValueError: if it cannot be decoded.
  """
  from pmrl_jax.data import decoding

  def choose(times: np.ndarray) -> np.ndarray:
    if encoding.frames_per_second is not None:
      return frames_at_rate(times, encoding.frames_per_second)
    most = encoding.num_frames or 1
    return decoding.frame_indices(len(times), min(most, len(times)))

  info = decoding.probe(path, "video")
  limit = encoding.shorter_side
  sides = [side for side in (info.width, info.height) if side]
  is_larger = limit is not None and (not sides or min(sides) > limit)
  found = decoding.read_frames(path, choose, size=limit if is_larger else None)
  return {
    "frames": [_jpeg(frame, encoding) for frame in found.frames],
    "times": found.times.astype(np.float32),
  }


def frames_at_rate(times: np.ndarray, rate: float) -> np.ndarray:
  """Chooses a frame for every `1 / rate` seconds: the last one shown by then.

  >>> frames_at_rate(np.array([0.0, 0.4, 0.8, 1.2, 1.6]), rate=2)
  array([0, 1, 2, 3])

  Args:
    times: of all frames, `[frame]`, ascending from 0, in seconds.
    rate: in frames per second.

  Returns:
    int64, ascending, without repetitions.
  """
  moments = np.arange(int(times[-1] * rate + 1e-6) + 1) / rate
  return np.unique(np.searchsorted(times, moments + 1e-6, side="right") - 1)


def encode_image(path: pathlib.Path, encoding: Encoding) -> bytes:
  """Returns an image file: the same if it is small enough, else a JPEG.

  Raises:
    ValueError: if it cannot be decoded.
  """
  from pmrl_jax.data import decoding

  pixels = decoding.read_image(path)
  height, width = pixels.shape[:2]
  limit = encoding.shorter_side
  if limit is None or min(height, width) <= limit:
    return path.read_bytes()
  scale = limit / min(height, width)
  size = (max(1, round(width * scale)), max(1, round(height * scale)))
  scaled = PIL.Image.fromarray(pixels).resize(
    size, PIL.Image.Resampling.BICUBIC, reducing_gap=None
  )
  return _jpeg(np.asarray(scaled), encoding)


def encode_audio(path: pathlib.Path, encoding: Encoding) -> bytes:
  """Encodes the sound of a sound or video file as FLAC of 16 bits.

  Sounds of 16 bits stay exact, unless they are resampled or mixed.

  Raises:
    ValueError: if it cannot be decoded.
  """
  from pmrl_jax.data import decoding

  samples, sample_rate = decoding.read_audio(path)
  if encoding.mono:
    samples = samples.mean(axis=0, keepdims=True)
  if encoding.sample_rate is not None and encoding.sample_rate != sample_rate:
    from pmrl_jax.data.resampling import resample

    samples = resample(
      samples, sample_rate=sample_rate, to=encoding.sample_rate
    )
    sample_rate = encoding.sample_rate
  if not np.isfinite(samples).all():
    raise ValueError(f"{path}: the sound holds NaN or infinity")
  # soundfile would scale by 32767, and change what had 16 bits.
  steps = np.clip(np.rint(samples * 32768.0), -32768, 32767)
  file = io.BytesIO()
  try:
    soundfile.write(
      file, steps.astype(np.int16).T, sample_rate, "PCM_16", format="FLAC"
    )
  except soundfile.LibsndfileError as error:
    raise ValueError(
      f"{path}: {len(samples)} channels at {sample_rate} Hz do not fit into "
      f"FLAC: {error}"
    ) from None
  return file.getvalue()


def _jpeg(pixels: np.ndarray, encoding: Encoding) -> bytes:
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "JPEG", quality=encoding.jpeg_quality)
  return file.getvalue()
