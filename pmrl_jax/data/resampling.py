"""Another sample rate for a waveform, by band-limited interpolation.

J. O. Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from scipy import sparse

# Zero crossings of the sinc on either side, and where the band ends as a
# share of what the lower of the two rates can hold.
_NUM_ZERO_CROSSINGS = 6
_ROLLOFF = 0.99
# Short periods are taken together until a block spans this many samples.
_BLOCK = 256
_NUM_CACHED = 2**17


class _Kernel(NamedTuple):
  """One period of the interpolation, or several in a row."""

  matrix: sparse.csr_array  # float32 [outputs, inputs with their margins]
  margin: int  # samples that are seen before a period's first
  num_inputs: int  # samples from one period to the next
  num_outputs: int


def resample(
  samples: np.ndarray,
  *,
  sample_rate: int,
  to: int,
  start: int = 0,
  stop: int | None = None,
) -> np.ndarray:
  """Resamples waveforms, as the published preprocessing does.

  Every output sample is a sum over the inputs around it, weighted by a sinc
  under a Hann window that reaches over 6 zero crossings; the band ends at 99 %
  of half the lower rate. Before and after the waveform is silence.

  Args:
    samples: float `[..., time]`.
    sample_rate: their rate, in Hz.
    to: the rate to return, in Hz.
    start: the first sample to return, counted at the new rate.
    stop: the sample behind the last one to return; None returns all. A part
      costs what its length costs.

  Returns:
    float32 `[..., resampled_length(time)]`, or that from `start` to `stop`.

  Raises:
    TypeError: if the samples are no floats or a rate is no integer.
    ValueError: if a rate is not positive or the part is not within the result.
  """
  if not np.issubdtype(samples.dtype, np.floating):
    raise TypeError(
      f"expected samples as floats from -1 to 1, got {samples.dtype}; divide "
      "by the type's largest value + 1, such as 2**15"
    )
  num_inputs, num_outputs = _ratio(sample_rate, to)
  length = resampled_length(samples.shape[-1], sample_rate=sample_rate, to=to)
  stop = length if stop is None else stop
  if not 0 <= start <= stop <= length:
    raise ValueError(
      f"expected a part of the {length} samples, got {start} to {stop}"
    )
  samples = samples.astype(np.float32, copy=False)
  if num_inputs == num_outputs:
    return samples[..., start:stop]
  kernel = _kernel(num_inputs, num_outputs)
  leading = samples.shape[:-1]
  result = np.empty((*leading, stop - start), np.float32)
  for row in np.ndindex(*leading):
    _interpolate(samples[row], kernel, start, result[row])
  return result


def resampled_length(length: int, *, sample_rate: int, to: int) -> int:
  """Returns how many samples at another rate cover `length` samples."""
  num_inputs, num_outputs = _ratio(sample_rate, to)
  return -(-length * num_outputs // num_inputs)


def _ratio(sample_rate: int, to: int) -> tuple[int, int]:
  for name, rate in (("sample_rate", sample_rate), ("to", to)):
    if not isinstance(rate, int | np.integer):
      raise TypeError(f"expected {name} as an integer in Hz, got {rate!r}")
    if rate <= 0:
      raise ValueError(f"expected {name} to be positive, got {rate} Hz")
  divisor = math.gcd(sample_rate, to)
  return int(sample_rate) // divisor, int(to) // divisor


def _interpolate(
  samples: np.ndarray, kernel: _Kernel, start: int, result: np.ndarray
) -> None:
  """Fills `result [time]` with the output samples from `start` on."""
  width = kernel.matrix.shape[1]
  # As many periods at a time as a core's cache holds.
  num_periods = max(1, _NUM_CACHED // width)
  first = start // kernel.num_outputs
  last = -(-(start + len(result)) // kernel.num_outputs)
  for begin in range(first, last, num_periods):
    count = min(num_periods, last - begin)
    inputs = _padded(
      samples,
      begin * kernel.num_inputs - kernel.margin,
      (count - 1) * kernel.num_inputs + width,
    )
    windows = np.lib.stride_tricks.sliding_window_view(inputs, width)
    # [outputs, periods]: for every weight of the matrix scipy adds a whole
    # row of contiguous periods, which is what makes it fast.
    periods = kernel.matrix @ np.ascontiguousarray(
      windows[:: kernel.num_inputs].T
    )
    outputs = periods.T.ravel()
    # The first and the last period may reach beyond what was asked for.
    offset = begin * kernel.num_outputs - start
    kept = outputs[max(-offset, 0) : len(result) - offset]
    result[max(offset, 0) : max(offset, 0) + len(kept)] = kept


def _padded(samples: np.ndarray, start: int, length: int) -> np.ndarray:
  """Returns samples from `start` on, zeros where there are none."""
  padded = np.zeros(length, np.float32)
  kept = samples[max(start, 0) : max(start + length, 0)]
  before = max(-start, 0)
  padded[before : before + len(kept)] = kept
  return padded


@functools.lru_cache(maxsize=16)
def _kernel(num_inputs: int, num_outputs: int) -> _Kernel:
  """The kernel of the ratio `num_inputs` to `num_outputs`, in lowest terms."""
  band = _ROLLOFF * min(num_inputs, num_outputs)  # per period
  margin = math.ceil(_NUM_ZERO_CROSSINGS * num_inputs / band)
  outputs = np.arange(num_outputs)
  nearest = outputs * num_inputs // num_outputs
  inputs = nearest[:, None] + np.arange(-margin, margin + 2)
  # The published kernel rounds the outputs' phases to float32; keeping that
  # makes the difference between 1e-7 and 4e-6.
  phases = outputs.astype(np.float32) / np.float32(num_outputs)
  time = band * (inputs / num_inputs - phases.astype(np.float64)[:, None])
  angle = np.clip(time / _NUM_ZERO_CROSSINGS, -1, 1) * (np.pi / 2)
  weights = np.sinc(time) * np.cos(angle) ** 2 * (band / num_inputs)
  # Several periods in one matrix: fewer, longer windows with less overlap.
  num_periods = max(1, _BLOCK // num_inputs)
  shifts = np.arange(num_periods)[:, None, None] * num_inputs
  matrix = sparse.csr_array(
    (
      np.tile(weights.astype(np.float32).ravel(), num_periods),
      (shifts + inputs + margin).ravel(),
      np.arange(num_periods * num_outputs + 1) * inputs.shape[1],
    ),
    shape=(
      num_periods * num_outputs,
      num_periods * num_inputs + 2 * margin + 1,
    ),
  )
  return _Kernel(
    matrix, margin, num_periods * num_inputs, num_periods * num_outputs
  )
