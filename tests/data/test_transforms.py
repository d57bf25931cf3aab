"""Decoding and random transforms of images, sounds, texts and tables."""

import io

import numpy as np
import pytest
import soundfile

from pmrl_jax.data import audio, tabular, text, vision


def _decibels(ratio):
  return 10 * np.log10(ratio)


def test_pixels_are_scaled_to_one():
  scaled = vision.scale_pixels(np.array([0, 4, 16], np.uint8), maximum=16)
  assert scaled.dtype == np.float32
  np.testing.assert_array_equal(scaled, [0, 0.25, 1])


def test_pixels_beyond_the_maximum_are_an_error():
  with pytest.raises(ValueError, match="from 0 to 16, got 3 to 255"):
    vision.scale_pixels(np.array([3, 255], np.uint8), maximum=16)


def test_image_shift_moves_by_at_most_its_maximum_and_in_every_direction():
  image = np.zeros((7, 9, 2), np.float32)
  image[3, 4] = [1, 2]
  rng = np.random.default_rng(0)
  seen = set()
  for _ in range(300):
    shifted = vision.random_shift(rng, image, max_pixels=2)
    assert shifted.shape == image.shape and shifted.dtype == image.dtype
    row, column = np.argwhere(shifted[..., 0] == 1)[0]
    np.testing.assert_array_equal(shifted[row, column], [1, 2])
    assert np.count_nonzero(shifted) == 2
    seen.add((row - 3, column - 4))
  assert seen == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_image_shift_equals_padding_and_cropping():
  image = np.random.default_rng(0).random((4, 5, 1)).astype(np.float32)
  padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
  crops = [padded[i : i + 4, j : j + 5] for i in range(7) for j in range(7)]
  rng = np.random.default_rng(1)
  for _ in range(50):
    shifted = vision.random_shift(rng, image, max_pixels=3)
    assert any(np.array_equal(shifted, crop) for crop in crops)


@pytest.mark.parametrize("max_pixels", [8, 20])
def test_image_may_be_shifted_out_of_sight(max_pixels):
  image = np.ones((8, 8, 1), np.float32)
  rng = np.random.default_rng(0)
  sums = {
    float(vision.random_shift(rng, image, max_pixels=max_pixels).sum())
    for _ in range(200)
  }
  assert 0.0 in sums and len(sums) > 5


def _encode(waveform, rate=8000):
  buffer = io.BytesIO()
  soundfile.write(buffer, waveform, rate, format="FLAC", subtype="PCM_16")
  return buffer.getvalue()


def test_waveforms_are_cropped_or_padded_and_cropping_is_counted():
  short = np.arange(1, 5, dtype=np.int16) * 1000
  long = np.arange(1, 10, dtype=np.int16) * 1000
  samples, num_cropped = audio.decode_waveforms(
    [_encode(short), _encode(long)], sample_rate=8000, num_samples=6
  )
  assert samples.dtype == np.float32 and num_cropped == 1
  np.testing.assert_allclose(
    samples * 32768 / 1000, [[1, 2, 3, 4, 0, 0], [1, 2, 3, 4, 5, 6]]
  )


def test_recordings_of_another_rate_or_with_channels_name_the_item():
  good = _encode(np.zeros(5, np.int16))
  for bad, message in (
    (_encode(np.zeros(5, np.int16), rate=16000), "16000 Hz in recording 1"),
    (_encode(np.zeros((5, 2), np.int16)), r"\(5, 2\).* in recording 1"),
    (b"no audio", "recording 1 is not audio"),
  ):
    with pytest.raises(ValueError, match=message):
      audio.decode_waveforms([good, bad], sample_rate=8000, num_samples=4)


def test_time_shift_moves_by_at_most_its_maximum():
  waveform = np.arange(1, 11, dtype=np.float32)
  rng = np.random.default_rng(0)
  padded = np.pad(waveform, 3)
  expected = {tuple(padded[i : i + 10]) for i in range(7)}
  seen = {
    tuple(audio.random_time_shift(rng, waveform, max_samples=3))
    for _ in range(200)
  }
  assert seen == expected


def test_time_shift_beyond_the_end_is_silence():
  waveform = np.ones(4, np.float32)
  rng = np.random.default_rng(0)
  sums = [
    audio.random_time_shift(rng, waveform, max_samples=12).sum()
    for _ in range(200)
  ]
  assert set(sums) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_gain_lies_within_its_decibels():
  waveform = np.full(3, 0.5, np.float32)
  rng = np.random.default_rng(0)
  gains = []
  for _ in range(300):
    louder = audio.random_gain(rng, waveform, max_decibels=6.0)
    assert louder.dtype == np.float32
    np.testing.assert_allclose(louder / louder[0], 1)
    gains.append(_decibels((louder[0] / 0.5) ** 2))
  assert -6.001 < min(gains) < -5.5 and 5.5 < max(gains) < 6.001


def test_noise_has_the_ratio_asked_for_and_is_white():
  rng = np.random.default_rng(0)
  waveform = np.sin(np.arange(20000) / 7).astype(np.float32)
  ratios = []
  for _ in range(30):
    noisy = audio.random_noise(
      rng, waveform, min_decibels=10.0, max_decibels=30.0
    )
    assert noisy.dtype == np.float32
    noise = (noisy - waveform).astype(np.float64)
    ratios.append(_decibels(np.mean(waveform**2) / np.mean(noise**2)))
    assert abs(noise.mean()) < 0.05 * noise.std()
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05
  assert 9.8 < min(ratios) < 13 and 27 < max(ratios) < 30.2


def test_silence_stays_silent_under_noise():
  noisy = audio.random_noise(
    np.random.default_rng(0),
    np.zeros(8, np.float32),
    min_decibels=0.0,
    max_decibels=1.0,
  )
  np.testing.assert_array_equal(noisy, 0)


def test_texts_come_back_from_their_ids():
  vocabulary = text.CharacterVocabulary.from_texts(["Fünf", "kaksi"])
  encoded = vocabulary.encode(["FÜNF", " kaksi "], length=6)
  assert encoded.characters.dtype == np.int32
  assert encoded.characters.max() == vocabulary.size - 1
  assert [vocabulary.decode(row) for row in encoded.characters] == [
    "fünf",
    "kaksi",
  ]
  assert (encoded.num_truncated, encoded.num_unknown) == (0, 0)


def test_composed_and_decomposed_letters_are_the_same():
  vocabulary = text.CharacterVocabulary("fünf"[:3])
  encoded = vocabulary.encode(["f\u00fcn", "fu\u0308n"], length=4).characters
  np.testing.assert_array_equal(encoded[0], encoded[1])


def test_lost_characters_and_ends_are_counted():
  vocabulary = text.CharacterVocabulary("ab")
  encoded = vocabulary.encode(["abab", "aXb", "b"], length=3)
  np.testing.assert_array_equal(
    encoded.characters, [[2, 3, 2], [2, 1, 3], [3, 0, 0]]
  )
  assert encoded.num_truncated == 1 and encoded.num_unknown == 1
  assert vocabulary.decode(encoded.characters[1]) == "a\ufffdb"


def test_empty_text_is_an_error():
  with pytest.raises(ValueError, match="text 1 is empty"):
    text.CharacterVocabulary("a").encode(["a", "  "], length=3)


@pytest.mark.parametrize("alphabet", ["aba", "aB", "u\u0308"])
def test_alphabet_with_doubles_or_not_normal_is_an_error(alphabet):
  with pytest.raises(ValueError, match="twice|lower case and NFC"):
    text.CharacterVocabulary(alphabet)


def test_alphabet_may_hold_a_space():
  vocabulary = text.CharacterVocabulary(" ab")
  encoded = vocabulary.encode(["a b"], length=3)
  assert encoded.num_unknown == 0


def test_standardised_columns_have_mean_zero_and_deviation_one():
  rng = np.random.default_rng(0)
  values = rng.normal(5, 3, (200, 4)) * [1, 100, 1e-6, 1]
  values[:, 3] = 0.1
  result = tabular.standardise(values, tabular.column_statistics(values))
  assert result.dtype == np.float32
  np.testing.assert_allclose(result.mean(axis=0), 0, atol=1e-6)
  np.testing.assert_allclose(result.std(axis=0), [1, 1, 1, 0], atol=1e-5)


def test_other_rows_are_standardised_by_the_same_statistics():
  train = np.array([[0.0, 7], [2, 7]])
  statistics = tabular.column_statistics(train)
  np.testing.assert_array_equal(
    tabular.standardise(np.array([[5.0, 9]]), statistics), [[4, 2]]
  )


def test_integer_tables_are_standardised_without_overflow():
  values = np.array([[0], [65535]], np.uint16)
  statistics = tabular.column_statistics(values)
  np.testing.assert_array_equal(
    tabular.standardise(values, statistics), [[-1], [1]]
  )


def test_feature_noise_has_its_deviation():
  features = np.full(20000, 3, np.float32)
  noisy = tabular.random_gaussian_noise(
    np.random.default_rng(0), features, std=0.2
  )
  assert noisy.dtype == np.float32
  assert abs(noisy.mean() - 3) < 0.01 and abs(noisy.std() - 0.2) < 0.01


@pytest.mark.parametrize(
  ("transform", "shape", "option"),
  [
    (vision.random_shift, (4, 4, 1), "max_pixels"),
    (audio.random_time_shift, (9,), "max_samples"),
    (audio.random_gain, (9,), "max_decibels"),
    (tabular.random_gaussian_noise, (9,), "std"),
  ],
)
def test_negative_sizes_are_an_error(transform, shape, option):
  item = np.ones(shape, np.float32)
  with pytest.raises(ValueError, match=f"{option} must not be negative"):
    transform(np.random.default_rng(0), item, **{option: -1})
