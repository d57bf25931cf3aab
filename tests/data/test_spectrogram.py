"""Resampling, log-mel features, the published segments, random masks."""

import json
import math

import numpy as np
import pytest
import scipy.signal

from pmrl_jax.data import audio, spectrogram
from pmrl_jax.data.resampling import resample, resampled_length


def noise(*shape, seed=0, scale=0.1):
  rng = np.random.default_rng(seed)
  return (scale * rng.standard_normal(shape)).astype(np.float32)


def sinc_sum(samples, sample_rate, to):
  """Every output sample as a sum over every input sample, in float64."""
  low = 0.99 * min(sample_rate, to) / 2  # Hz
  num_outputs = math.ceil(len(samples) * to / sample_rate)
  # The published kernel has float32 phases within a period of the two rates.
  divisor = math.gcd(sample_rate, to)
  periods, phases = np.divmod(np.arange(num_outputs), to // divisor)
  phases = (phases / (to // divisor)).astype(np.float32).astype(np.float64)
  outputs = (periods + phases)[:, None] / divisor
  distance = (np.arange(len(samples)) / sample_rate - outputs) * 2 * low
  window = np.cos(np.clip(distance / 6, -1, 1) * np.pi / 2) ** 2
  weights = np.sinc(distance) * window * (2 * low / sample_rate)
  return weights @ samples.astype(np.float64)


@pytest.mark.parametrize(
  ("sample_rate", "to", "length"),
  [
    (44100, 16000, 2000),
    (48000, 16000, 3001),
    (8000, 16000, 777),
    (22050, 16000, 1),
    (11025, 16000, 500),
    (16000, 44100, 300),
    (997, 1009, 400),
    (16000, 1, 40),
  ],
)
def test_resampling_is_a_sum_of_windowed_sincs(sample_rate, to, length):
  samples = noise(length, scale=1.0)
  result = resample(samples, sample_rate=sample_rate, to=to)
  assert result.dtype == np.float32
  expected = sinc_sum(samples, sample_rate, to)
  assert result.shape == expected.shape
  np.testing.assert_allclose(result, expected, atol=3e-6)


@pytest.mark.parametrize("sample_rate", [44100, 48000, 8000])
def test_resampled_tones_stay_what_they_are(sample_rate):
  time = np.arange(sample_rate) / sample_rate
  tone = np.sin(2 * np.pi * 440 * time)
  result = resample(tone, sample_rate=sample_rate, to=16000)
  expected = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
  np.testing.assert_allclose(result[200:-200], expected[200:-200], atol=2e-3)


def test_tones_beyond_the_new_band_vanish():
  tone = np.sin(2 * np.pi * 12000 * np.arange(44100) / 44100)
  result = resample(tone, sample_rate=44100, to=16000)
  assert np.abs(result[200:-200]).max() < 3e-3


@pytest.mark.parametrize("part", [(0, 0), (0, 1), (5, 1234), (9000, 16000)])
@pytest.mark.parametrize("sample_rate", [44100, 48000, 15999, 16000])
def test_a_part_of_a_resampled_waveform_is_that_part(sample_rate, part):
  samples = noise(2, sample_rate)
  whole = resample(samples, sample_rate=sample_rate, to=16000)
  start, stop = part
  result = resample(
    samples, sample_rate=sample_rate, to=16000, start=start, stop=stop
  )
  assert result.shape == (2, stop - start)
  np.testing.assert_allclose(result, whole[:, start:stop], atol=1e-6)


def test_channels_are_resampled_on_their_own():
  samples = noise(2, 3, 500)
  result = resample(samples, sample_rate=22050, to=16000)
  assert result.shape == (
    2,
    3,
    resampled_length(500, sample_rate=22050, to=16000),
  )
  alone = resample(samples[1, 2], sample_rate=22050, to=16000)
  np.testing.assert_array_equal(result[1, 2], alone)


@pytest.mark.parametrize(
  ("samples", "options", "error", "message"),
  [
    (np.zeros(9, np.int16), {}, TypeError, r"such as 2\*\*15"),
    (np.zeros(9), {"to": 0}, ValueError, "to to be positive"),
    (np.zeros(9), {"sample_rate": 8e3}, TypeError, "integer in Hz, got 8000.0"),
    (np.zeros(9), {"stop": 99}, ValueError, "part of the 18 samples"),
  ],
)
def test_resampling_errors_say_what_was_expected(
  samples, options, error, message
):
  with pytest.raises(error, match=message):
    resample(samples, **({"sample_rate": 8000, "to": 16000} | options))


def kaldi(samples, sample_rate, num_mel_bins):
  """The features by their definition: direct sums, row by row, in float64."""
  length, hop = sample_rate * 25 // 1000, sample_rate // 100
  size = 2 ** math.ceil(math.log2(length))
  window = scipy.signal.get_window("hann", length, fftbins=False) ** 0.85
  angle = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(length))
  fourier = np.exp(-1j * angle / size)

  def mel(frequency):
    return 1127 * math.log(1 + frequency / 700)

  low, high = mel(20), mel(sample_rate / 2)
  step = (high - low) / (num_mel_bins + 1)
  rows = []
  for start in range(0, len(samples) - length + 1, hop):
    row = samples[start : start + length].astype(np.float64)
    row = row - row.mean()
    row = row - 0.97 * np.concatenate([row[:1], row[:-1]])
    power = np.abs(fourier @ (row * window)) ** 2
    energies = np.zeros(num_mel_bins)
    for k in range(size // 2):
      position = (mel(k * sample_rate / size) - low) / step
      for b in range(num_mel_bins):
        energies[b] += power[k] * max(0, 1 - abs(position - (b + 1)))
    rows.append(np.log(np.maximum(energies, 1.1920929e-07)))
  return np.array(rows)


@pytest.mark.parametrize(
  ("sample_rate", "num_mel_bins", "length"),
  [(16000, 64, 1200), (16000, 128, 400), (16000, 23, 719), (8000, 40, 900)],
)
def test_features_are_kaldis(sample_rate, num_mel_bins, length):
  # A constant and a tone beside the noise: what the first steps act on.
  samples = noise(length, scale=300.0) + 500
  samples += 2000 * np.sin(np.arange(length, dtype=np.float32))
  result = spectrogram.mel_filter_bank_features(
    samples, sample_rate=sample_rate, num_mel_bins=num_mel_bins
  )
  assert result.dtype == np.float32
  expected = kaldi(samples, sample_rate, num_mel_bins)
  assert result.shape == expected.shape
  np.testing.assert_allclose(result, expected, atol=2e-3)


def test_features_of_silence_are_the_floor():
  result = spectrogram.mel_filter_bank_features(
    np.full(560, 7, np.float32), sample_rate=16000
  )
  np.testing.assert_allclose(result, np.full((2, 64), math.log(1.1920929e-07)))


def test_features_of_a_long_sound_are_those_of_its_parts():
  samples = noise(160 * 700, scale=1000.0)
  whole = spectrogram.mel_filter_bank_features(samples, sample_rate=16000)
  assert len(whole) == 698
  part = spectrogram.mel_filter_bank_features(
    samples[160 * 500 : 160 * 510 + 400], sample_rate=16000
  )
  np.testing.assert_allclose(whole[500:511], part, atol=1e-4)


def segments(rng, samples, num_clips, num_rows=4, num_mel_bins=8):
  """The published segments with all of the rows computed, then grouped."""
  features = spectrogram.mel_filter_bank_features(
    samples * np.float32(2**15), sample_rate=16000, num_mel_bins=num_mel_bins
  )
  features = (features - 15.41663) / (2 * 6.55582)
  total = len(features)
  padding = max(num_rows * num_clips - total, num_rows - total % num_rows)
  padded = np.concatenate([features, np.zeros((padding, num_mel_bins))])
  groups = np.array_split(np.arange(len(padded) // num_rows), num_clips)
  return padded.reshape(-1, num_rows, num_mel_bins), groups


def rows_of(num_rows):
  """The shortest waveform of this many rows, and half a hop."""
  return noise(400 + 160 * (num_rows - 1) + 80, seed=num_rows)


@pytest.mark.parametrize("num_clips", [1, 2, 3])
@pytest.mark.parametrize("total", [1, 3, 4, 5, 8, 13, 24])
def test_published_segments_are_the_middle_ones_of_their_groups(
  total, num_clips
):
  samples = rows_of(total)
  every, groups = segments(None, samples, num_clips)
  # An exact multiple has one more segment, which is empty.
  if total == 8 and num_clips == 1:
    assert len(every) == 3 and not every[2].any()
  result = spectrogram.published_spectrogram(
    None, samples[None], 16000, num_clips=num_clips, num_rows=4, num_mel_bins=8
  )
  assert result.dtype == np.float32
  expected = every[[group[(len(group) + 1) // 2 - 1] for group in groups]]
  np.testing.assert_allclose(result, expected, atol=1e-4)


def test_published_training_segments_are_any_ones_of_their_groups():
  samples = rows_of(18)
  every, groups = segments(None, samples, 2)
  assert [len(group) for group in groups] == [3, 2]
  rng = np.random.default_rng(0)
  seen = set()
  for _ in range(60):
    clips = spectrogram.published_spectrogram(
      rng, samples[None], 16000, num_clips=2, num_rows=4, num_mel_bins=8
    )
    chosen = tuple(
      int(np.argmin(np.abs(every - clip).max(axis=(1, 2)))) for clip in clips
    )
    np.testing.assert_allclose(clips, every[list(chosen)], atol=1e-4)
    seen.add(chosen)
  assert seen == {(i, j) for i in groups[0] for j in groups[1]}


def test_published_spectrogram_hears_the_first_channel_alone():
  samples = noise(2, 44100)
  both = spectrogram.published_spectrogram(None, samples, 44100)
  assert both.shape == (1, 1024, 64)
  samples[1] = 0
  np.testing.assert_array_equal(
    spectrogram.published_spectrogram(None, samples, 44100), both
  )
  # 1 s is 98 rows; what follows is zero after the normalisation.
  assert np.all(both[0, :98].any(axis=1)) and not both[0, 98:].any()


def test_published_spectrogram_of_a_resampled_sound_is_that_of_the_result():
  samples = noise(1, 32000 * 2)
  resampled = resample(samples, sample_rate=32000, to=16000)
  options = {"num_clips": 3, "num_rows": 50}
  np.testing.assert_allclose(
    spectrogram.published_spectrogram(None, samples, 32000, **options),
    spectrogram.published_spectrogram(None, resampled, 16000, **options),
    atol=1e-4,
  )


@pytest.mark.parametrize(
  ("samples", "message"),
  [
    (np.zeros(900), r"\[channel, time\].*samples\[None\]"),
    (np.zeros((0, 900)), r"\[channel, time\]"),
    (np.zeros((1, 399)), "at least 25 ms, got 399 samples at 16000 Hz"),
    (np.zeros((1, 0)), "at least 25 ms, got 0 samples"),
  ],
)
def test_sounds_of_another_form_are_an_error(samples, message):
  with pytest.raises(ValueError, match=message):
    spectrogram.published_spectrogram(None, samples, 16000)


def test_features_of_less_than_a_row_are_an_error():
  with pytest.raises(ValueError, match="at least 400 samples"):
    spectrogram.mel_filter_bank_features(np.zeros(399), sample_rate=16000)


def bands(hidden):
  """The widths of the runs of True."""
  edges = np.flatnonzero(np.diff(np.pad(hidden.astype(int), 1)))
  return edges[1::2] - edges[::2]


def test_masks_hide_bands_of_time_and_of_frequency():
  clip = np.ones((30, 20), np.float32)
  rng = np.random.default_rng(0)
  widths = {0: set(), 1: set()}
  hidden_somewhere = np.zeros(clip.shape, bool)
  for _ in range(300):
    masked = spectrogram.random_mask_spectrogram(
      rng,
      clip,
      num_time_masks=1,
      max_rows=5,
      num_frequency_masks=1,
      max_bins=3,
      value=-2.0,
    )
    hidden = masked == -2
    assert np.all(hidden | (masked == 1))
    for axis in (0, 1):
      inside = hidden.all(axis=1 - axis)
      assert len(bands(inside)) <= 1
      widths[axis].add(int(inside.sum()))
    np.testing.assert_array_equal(
      hidden, hidden.all(axis=1)[:, None] | hidden.all(axis=0)
    )
    hidden_somewhere |= hidden
  assert widths == {0: set(range(6)), 1: set(range(4))}
  assert hidden_somewhere.all() and np.all(clip == 1)


def test_masks_differ_between_segments_and_may_be_wider_than_they_are():
  clips = np.ones((4, 10, 8), np.float32)
  masked = spectrogram.random_mask_spectrogram(
    np.random.default_rng(0), clips, max_rows=99, max_bins=99
  )
  assert masked.dtype == np.float32 and masked.shape == clips.shape
  assert len({clip.tobytes() for clip in masked}) > 1
  with pytest.raises(ValueError, match="max_rows must not be negative"):
    spectrogram.random_mask_spectrogram(
      np.random.default_rng(0), clips, max_rows=-1
    )


def test_random_stretches_of_a_waveform_are_all_of_its_stretches():
  waveform = np.stack([np.arange(1, 8), np.arange(11, 18)]).astype(np.float32)
  rng = np.random.default_rng(0)
  seen = set()
  for _ in range(200):
    cropped = audio.random_crop(rng, waveform, num_samples=4)
    np.testing.assert_array_equal(cropped[1], cropped[0] + 10)
    seen.add(tuple(cropped[0]))
  assert seen == {tuple(waveform[0, i : i + 4]) for i in range(4)}


def test_a_waveform_shorter_than_the_stretch_is_followed_by_silence():
  cropped = audio.random_crop(
    np.random.default_rng(0), np.ones(3, np.float32), num_samples=5
  )
  assert cropped.dtype == np.float32
  np.testing.assert_array_equal(cropped, [1, 1, 1, 0, 0])


@pytest.fixture
def golden(recorded):
  return recorded("audio_fbank.npz")


def test_features_equal_recorded_outputs(golden):
  clips = read_options(golden)["clips"]
  recorded = [name for name in clips if f"in/{name}/waveform" in golden]
  assert len(recorded) >= 2
  for name in recorded:
    clip = clips[name]
    samples = golden[f"in/{name}/waveform"].astype(np.float32) / 2**15
    rate = clip["sample_rate"]
    if rate != 16000:
      np.testing.assert_allclose(
        resample(samples, sample_rate=rate, to=16000),
        golden[f"out/{name}/resampled_16k"],
        atol=3e-7,
      )
    expected = golden[f"out/{name}/fbank_normalised"]
    (result,) = spectrogram.published_spectrogram(None, samples, rate)
    assert not result[len(expected) :].any()
    difference = np.abs(result[: len(expected)] - expected)
    # Above the band of a sound at 8 kHz there is rounding and nothing else.
    assert difference.mean() < (2e-5 if rate >= 16000 else 3e-4), name
    assert difference.max() < (1e-3 if rate >= 16000 else 3e-2), name
  samples = golden["in/short/waveform"].astype(np.float32) / 2**15
  np.testing.assert_allclose(
    spectrogram.published_spectrogram(None, samples, 16000, num_clips=2)[
      :, :220
    ],
    golden["out/mapper_short_2slices_first220"],
    atol=1e-3,
  )


def test_chosen_segments_equal_recorded_choices(golden):
  recorded = read_options(golden)["mapper_selection"]
  for name, choice in recorded.items():
    total, num_clips = map(int, name.split("/"))
    samples = noise(1, 400 + 160 * (total - 1), scale=0.3)
    result = spectrogram.published_spectrogram(
      None, samples, 16000, num_clips=num_clips
    )
    for clip, start, valid in zip(
      result, choice["slice_start"], choice["valid"], strict=True
    ):
      assert np.count_nonzero(clip.any(axis=1)) == valid, name
      if start >= 0:
        part = samples[0, start * 160 : (start + valid - 1) * 160 + 400]
        features = spectrogram.mel_filter_bank_features(
          part * np.float32(2**15), sample_rate=16000
        )
        expected = (features - 15.41663) / (2 * 6.55582)
        np.testing.assert_allclose(clip[:valid], expected, atol=1e-4)


def read_options(golden):
  return json.loads(bytes(golden["cfg/json"]))
