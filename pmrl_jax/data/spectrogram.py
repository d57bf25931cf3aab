"""Waveforms as log-mel spectrograms: the published segments, random masks."""

from __future__ import annotations

import functools

import numpy as np

from pmrl_jax.data.decoding import frame_indices
from pmrl_jax.data.resampling import resample, resampled_length

__all__ = [
  "PUBLISHED_SAMPLE_RATE",
  "mel_filter_bank_features",
  "published_spectrogram",
  "random_mask_spectrogram",
  "resample",
]

PUBLISHED_SAMPLE_RATE = 16000  # Hz
_WINDOW_SECONDS = 0.025
_HOP_SECONDS = 0.010
_PREEMPHASIS = np.float32(0.97)
_LOWEST_FREQUENCY = 20.0  # Hz
# The logarithm is taken of at least this: the float32 epsilon.
_FLOOR = np.finfo(np.float32).eps
# Mean and half the divisor of the published normalisation.
_MEAN, _STD = np.float32(15.41663), np.float32(6.55582)
# Rows that are transformed at once: as many as a core's cache holds.
_BLOCK = 256


def mel_filter_bank_features(
  samples: np.ndarray, *, sample_rate: int, num_mel_bins: int = 64
) -> np.ndarray:
  """Returns log-mel energies as Kaldi computes them.

  A row is 25 ms long, rows are 10 ms apart, and only whole ones are kept. Of
  each row: the mean is removed; `x[i] - 0.97 x[i - 1]`, where `x[-1]` is
  `x[0]`; a Hann window to the power 0.85; the power spectrum over the next
  power of two; triangles that are equally wide in `1127 ln(1 + f / 700)`, from
  20 Hz to half the rate; the logarithm, floored at the float32 epsilon.

  Args:
    samples: float `[time]`. Kaldi's features are those of 16 bit integers, so
      multiply samples between -1 and 1 by 2^15 to get the same numbers.
    sample_rate: their rate, in Hz.
    num_mel_bins: the number of triangles.

  Returns:
    float32 `[1 + (time - window) // hop, num_mel_bins]`.

  Raises:
    ValueError: if the samples are not `[time]`, or shorter than one row.

  Reference: D. Povey et al., "The Kaldi Speech Recognition Toolkit", 2011.
  """
  window = int(sample_rate * _WINDOW_SECONDS)
  hop = int(sample_rate * _HOP_SECONDS)
  if samples.ndim != 1 or len(samples) < window:
    raise ValueError(
      f"expected samples [time] of at least {window} samples ({sample_rate} Hz "
      f"for 25 ms), got shape {samples.shape}; a sound this short is best "
      "marked as absent"
    )
  rows = np.lib.stride_tricks.sliding_window_view(samples, window)[::hop]
  features = np.empty((len(rows), num_mel_bins), np.float32)
  for start in range(0, len(rows), _BLOCK):
    block = slice(start, start + _BLOCK)
    features[block] = _log_mel(
      rows[block].astype(np.float32), sample_rate, num_mel_bins
    )
  return features


def _log_mel(
  rows: np.ndarray, sample_rate: int, num_mel_bins: int
) -> np.ndarray:
  window = rows.shape[1]
  size = 1 << (window - 1).bit_length()
  rows -= rows.mean(axis=1, keepdims=True)
  emphasised = np.empty_like(rows)
  np.multiply(rows[:, :-1], -_PREEMPHASIS, out=emphasised[:, 1:])
  np.multiply(rows[:, 0], -_PREEMPHASIS, out=emphasised[:, 0])
  emphasised += rows
  emphasised *= _window(window)
  spectrum = np.fft.rfft(emphasised, n=size, axis=1)
  power = spectrum.real**2 + spectrum.imag**2
  energies = power @ _mel_triangles(sample_rate, size, num_mel_bins)
  return np.log(np.maximum(energies, _FLOOR))


@functools.lru_cache(maxsize=4)
def _window(length: int) -> np.ndarray:
  angle = 2 * np.pi * np.arange(length) / (length - 1)
  return ((0.5 - 0.5 * np.cos(angle)) ** 0.85).astype(np.float32)


@functools.lru_cache(maxsize=4)
def _mel_triangles(
  sample_rate: int, size: int, num_mel_bins: int
) -> np.ndarray:
  """float32 `[frequency, mel bin]`; Kaldi leaves out the highest frequency."""
  edges = np.linspace(
    _mel(_LOWEST_FREQUENCY), _mel(sample_rate / 2), num_mel_bins + 2
  )
  mels = _mel(np.arange(size // 2) * (sample_rate / size))[:, None]
  rising = (mels - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - mels) / (edges[2:] - edges[1:-1])
  triangles = np.zeros((size // 2 + 1, num_mel_bins), np.float32)
  triangles[:-1] = np.maximum(0, np.minimum(rising, falling))
  return triangles


def _mel(frequency):
  return 1127 * np.log1p(frequency / 700)


def published_spectrogram(
  rng: np.random.Generator | None,
  samples: np.ndarray,
  sample_rate: int,
  *,
  num_clips: int = 1,
  num_rows: int = 1024,
  num_mel_bins: int = 64,
) -> np.ndarray:
  """Returns segments of a sound's spectrogram, exactly as published.

  The first channel at 16 kHz, times 2^15, as `mel_filter_bank_features`,
  normalised by `(x - 15.41663) / (2 * 6.55582)`. Zeros are appended to the `T`
  rows until there are `num_clips` segments and at least one zero row: an exact
  multiple of `num_rows` gets one more segment that is empty. The segments are
  split into `num_clips` groups as frames are (`frame_indices`), and one of
  each is returned. Only the rows that are returned are computed.

  Args:
    rng: draws a segment of each group; None takes the group's middle one.
    samples: float `[channel, time]`, between -1 and 1.
    sample_rate: their rate, in Hz.
    num_clips: the number of segments to return.
    num_rows: the length of a segment, in rows of 10 ms.
    num_mel_bins: the number of mel bins.

  Returns:
    float32 `[num_clips, num_rows, num_mel_bins]`.

  Raises:
    TypeError: if the samples are no floats.
    ValueError: if the samples are not `[channel, time]`, or the sound is
      shorter than 25 ms.

  Reference: S. Chen et al., "BEATs: Audio Pre-Training with Acoustic
  Tokenizers", arXiv 2212.09058.
  """
  if samples.ndim != 2 or not len(samples):
    raise ValueError(
      f"expected samples [channel, time], got shape {samples.shape}; one "
      "channel is samples[None]"
    )
  if num_clips < 1 or num_rows < 1:
    raise ValueError(
      "expected num_clips and num_rows to be at least 1, got "
      f"{num_clips} and {num_rows}"
    )
  window = int(PUBLISHED_SAMPLE_RATE * _WINDOW_SECONDS)
  hop = int(PUBLISHED_SAMPLE_RATE * _HOP_SECONDS)
  rates = {"sample_rate": sample_rate, "to": PUBLISHED_SAMPLE_RATE}
  total = 1 + (resampled_length(samples.shape[1], **rates) - window) // hop
  if total < 1:
    raise ValueError(
      f"expected a sound of at least 25 ms, got {samples.shape[1]} samples at "
      f"{sample_rate} Hz; mark it as absent"
    )
  num_segments = max(num_clips, total // num_rows + 1)
  chosen = frame_indices(num_segments, num_clips, rng)
  segments = np.zeros((num_clips, num_rows, num_mel_bins), np.float32)
  for segment, index in zip(segments, chosen.tolist()):
    first = index * num_rows
    last = min(first + num_rows, total)
    if first >= last:
      continue
    waveform = resample(
      samples[0], start=first * hop, stop=(last - 1) * hop + window, **rates
    )
    features = mel_filter_bank_features(
      waveform * np.float32(2**15),
      sample_rate=PUBLISHED_SAMPLE_RATE,
      num_mel_bins=num_mel_bins,
    )
    segment[: last - first] = (features - _MEAN) / (2 * _STD)
  return segments


def random_mask_spectrogram(
  rng: np.random.Generator,
  spectrogram: np.ndarray,
  *,
  num_time_masks: int = 2,
  max_rows: int = 100,
  num_frequency_masks: int = 2,
  max_bins: int = 16,
  value: float = 0.0,
) -> np.ndarray:
  """Hides random bands of time and of frequency (SpecAugment).

  A band's width is uniform from 0 to its maximum, its place uniform among
  those where it fits. Bands may overlap; every segment gets its own. The
  paper's warping of time, which its authors find to matter little, is left out.

  Args:
    rng: the source of randomness.
    spectrogram: float `[..., row, bin]`.
    num_time_masks: the number of bands of time.
    max_rows: their largest width, in rows.
    num_frequency_masks: the number of bands of frequency.
    max_bins: their largest width, in bins.
    value: what is put there: the mean, 0 for a normalised spectrogram.

  Returns:
    The masked copy, of the same shape and dtype.

  Raises:
    ValueError: if a number or a width is negative.

  Reference: D. Park et al., "SpecAugment: A Simple Data Augmentation Method
  for Automatic Speech Recognition", arXiv 1904.08779.
  """
  for name, number in (
    ("num_time_masks", num_time_masks),
    ("max_rows", max_rows),
    ("num_frequency_masks", num_frequency_masks),
    ("max_bins", max_bins),
  ):
    if number < 0:
      raise ValueError(f"{name} must not be negative, got {number}")
  masked = spectrogram.copy()
  num_rows, num_bins = masked.shape[-2:]
  for segment in np.ndindex(*masked.shape[:-2]):
    for _ in range(num_time_masks):
      masked[segment][_random_band(rng, num_rows, max_rows)] = value
    for _ in range(num_frequency_masks):
      masked[segment][:, _random_band(rng, num_bins, max_bins)] = value
  return masked


def _random_band(rng: np.random.Generator, size: int, widest: int) -> slice:
  width = int(rng.integers(0, min(widest, size), endpoint=True))
  start = int(rng.integers(0, size - width, endpoint=True))
  return slice(start, start + width)
