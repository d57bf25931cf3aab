"""Waveforms as NumPy arrays: decoding, fixed lengths and random transforms."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import soundfile


class Waveforms(NamedTuple):
  """Waveforms of one length."""

  samples: np.ndarray  # float32 [item, time], between -1 and 1
  num_cropped: int  # how many were longer and lost their end


def decode_waveforms(
  encoded: Sequence[bytes], *, sample_rate: int, num_samples: int
) -> Waveforms:
  """Decodes audio files held in memory, cropped or padded to one length.

  Args:
    encoded: the bytes of audio files that soundfile reads (FLAC, WAV, ...).
    sample_rate: the rate that every file must have, in Hz.
    num_samples: the length to return; longer recordings lose their end,
      shorter ones are followed by zeros.

  Returns:
    The waveforms and how many of them were cropped.

  Raises:
    ValueError: if a file is unreadable, has another sample rate, or more than
      one channel.
  """
  return fit_lengths(
    (
      _decode(content, item=item, sample_rate=sample_rate)
      for item, content in enumerate(encoded)
    ),
    num_items=len(encoded),
    num_samples=num_samples,
  )


def fit_lengths(
  waveforms: Iterable[np.ndarray], *, num_items: int, num_samples: int
) -> Waveforms:
  """Crops or zero-pads waveforms `[time]` to one length.

  Args:
    waveforms: `num_items` waveforms, each `[time]`.
    num_items: how many there are.
    num_samples: the length to return.

  Returns:
    The waveforms and how many of them were cropped.
  """
  samples = np.zeros((num_items, num_samples), np.float32)
  num_cropped = 0
  for row, waveform in zip(samples, waveforms, strict=True):
    kept = waveform[:num_samples]
    row[: len(kept)] = kept
    num_cropped += len(waveform) > num_samples
  return Waveforms(samples, num_cropped)


def _decode(content: bytes, *, item: int, sample_rate: int) -> np.ndarray:
  try:
    waveform, rate = soundfile.read(io.BytesIO(content), dtype="float32")
  except soundfile.LibsndfileError as error:
    raise ValueError(
      f"recording {item} is not audio that can be read: {error}"
    ) from error
  if rate != sample_rate or waveform.ndim != 1:
    raise ValueError(
      f"expected recordings of one channel at {sample_rate} Hz, got samples "
      f"of shape {waveform.shape} at {rate} Hz in recording {item}; convert "
      "it first"
    )
  return waveform


def random_crop(
  rng: np.random.Generator, waveform: np.ndarray, *, num_samples: int
) -> np.ndarray:
  """Returns a random stretch of a waveform.

  Args:
    rng: the source of randomness.
    waveform: `[..., time]`.
    num_samples: the length to return; a shorter waveform is followed by zeros.

  Returns:
    `[..., num_samples]`; all channels begin at the same sample.

  Raises:
    ValueError: if `num_samples` is negative.
  """
  if num_samples < 0:
    raise ValueError(f"num_samples must not be negative, got {num_samples}")
  length = waveform.shape[-1]
  start = int(rng.integers(0, max(length - num_samples, 0), endpoint=True))
  kept = waveform[..., start : start + num_samples]
  cropped = np.zeros((*waveform.shape[:-1], num_samples), waveform.dtype)
  cropped[..., : kept.shape[-1]] = kept
  return cropped


def random_time_shift(
  rng: np.random.Generator, waveform: np.ndarray, *, max_samples: int
) -> np.ndarray:
  """Moves a waveform in time; what moves in is silence.

  Args:
    rng: the source of randomness.
    waveform: `[time]`.
    max_samples: the largest shift in either direction, in samples.

  Returns:
    The shifted waveform, `[time]`.

  Raises:
    ValueError: if `max_samples` is negative.
  """
  if max_samples < 0:
    raise ValueError(f"max_samples must not be negative, got {max_samples}")
  length = len(waveform)
  # Farther than its length, all of it is gone all the same.
  reach = min(max_samples, length)
  shift = int(rng.integers(-reach, reach + 1))
  shifted = np.zeros_like(waveform)
  shifted[max(shift, 0) : length + min(shift, 0)] = waveform[
    max(-shift, 0) : length - max(shift, 0)
  ]
  return shifted


def random_gain(
  rng: np.random.Generator, waveform: np.ndarray, *, max_decibels: float
) -> np.ndarray:
  """Makes a waveform louder or softer.

  Args:
    rng: the source of randomness.
    waveform: `[time]`.
    max_decibels: the largest change in either direction, in dB.

  Returns:
    The scaled waveform, `[time]`.

  Raises:
    ValueError: if `max_decibels` is negative.
  """
  if max_decibels < 0:
    raise ValueError(f"max_decibels must not be negative, got {max_decibels}")
  decibels = rng.uniform(-max_decibels, max_decibels)
  return waveform * waveform.dtype.type(10 ** (decibels / 20))


def random_noise(
  rng: np.random.Generator,
  waveform: np.ndarray,
  *,
  min_decibels: float,
  max_decibels: float,
) -> np.ndarray:
  """Adds white noise at a random signal-to-noise ratio.

  The noise is uniform and not Gaussian, which takes a quarter of the time and
  is the same thing once a spectrogram has summed over a window.

  Args:
    rng: the source of randomness.
    waveform: `[time]`, float32.
    min_decibels: the lowest ratio of the waveform's power to the noise's, dB.
    max_decibels: the highest ratio, in dB.

  Returns:
    The noisy waveform, `[time]`; silence stays silent.
  """
  power = np.dot(waveform, waveform) / len(waveform)
  ratio = 10 ** (rng.uniform(min_decibels, max_decibels) / 10)
  # A uniform variable on (-a, a) has power a^2 / 3.
  amplitude = np.float32(np.sqrt(3 * power / ratio))
  noise = rng.random(len(waveform), dtype=np.float32)
  noise *= 2 * amplitude
  noise += waveform
  noise -= amplitude
  return noise
