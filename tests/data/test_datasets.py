"""Data sets by name."""

import functools

import numpy as np
import pytest

from pmrl_jax.data import audio, datasets, records, text


@functools.cache
def _digits(split):
  return datasets.multimodal_digits(
    split, modalities=("image", "speech", "text", "pen"), seed=3
  )


def test_digits_have_the_documented_inputs():
  source = _digits("test")
  assert source.modalities == ("image", "speech", "text", "pen")
  shapes = {m: spec.shape for m, spec in source.spec.items()}
  assert shapes == {
    "image": (8, 8, 1),
    "speech": (8000,),
    "text": (12,),
    "pen": (8, 2),
  }
  ranges = {"image": (0, 1), "speech": (-1, 1), "pen": (-1, 1)}
  for modality, (low, high) in ranges.items():
    values = source.inputs(modality, np.arange(100))
    assert values.dtype == np.float32
    assert low <= values.min() < values.max() <= high
  assert source.spec["text"].dtype == np.int32


def test_digits_of_an_instance_are_the_same_digit():
  source = _digits("test")
  items = source.pairing(0)
  for column, modality in enumerate(source.modalities):
    labels = records.read_records(f"multimodal_digits/{modality}", "test")
    np.testing.assert_array_equal(
      labels["label"][items[:, column]], source.labels
    )
  # Pen trajectories are the most frequent in every class.
  assert len(source) == 3498


def test_digit_texts_decode_to_the_words_of_their_class():
  source = _digits("test")
  vocabulary = text.CharacterVocabulary(datasets.DIGIT_ALPHABET)
  words = records.read_records("multimodal_digits/text", "test")["text"]
  encoded = source.inputs("text", np.arange(len(words)))
  assert [vocabulary.decode(row) for row in encoded] == words.tolist()


def test_cropped_recordings_are_noted():
  assert _digits("test").notes == (
    "multimodal_digits, test: 2 of 300 recordings are longer than 1 s and "
    "lost their end",
  )
  whole = datasets.multimodal_digits(
    "test", modalities=["speech"], num_samples=20000
  )
  assert whole.notes == ()


def test_truncated_texts_are_noted():
  source = datasets.multimodal_digits(
    "test", modalities=["text"], num_characters=8
  )
  assert source.notes == (
    "multimodal_digits, test: 2 of 120 texts are longer than 8 characters "
    "and lost their end",
  )


def test_unknown_modality_or_split_is_an_error():
  with pytest.raises(ValueError, match="'video'"):
    datasets.multimodal_digits("test", modalities=["image", "video"])
  with pytest.raises(ValueError, match="different modalities"):
    datasets.multimodal_digits("test", modalities=["image", "image"])
  with pytest.raises(ValueError, match="'dev'"):
    datasets.multimodal_digits("dev", modalities=["text"])
  with pytest.raises(ValueError, match="'gab'"):
    datasets.mfeat("test", views=["pix", "gab"])


def test_mfeat_is_standardised_by_the_training_split():
  train, test = datasets.mfeat("train"), datasets.mfeat("test")
  assert len(train) == 1400 and len(test) == 600
  for view in datasets.MFEAT_VIEWS:
    values = train.inputs(view, np.arange(1400)).astype(np.float64)
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-5)
    deviations = values.std(axis=0)
    np.testing.assert_allclose(deviations[deviations > 0], 1, atol=1e-4)
    # Other rows, the same statistics: close to standard, not exactly.
    other = test.inputs(view, np.arange(600)).astype(np.float64)
    assert 1e-3 < np.abs(other.mean(axis=0)).max() < 0.5


def test_mfeat_views_are_in_the_order_asked_for():
  source = datasets.mfeat("test", views=("mor", "pix"))
  assert source.modalities == ("mor", "pix")
  assert source.spec["mor"].shape == (6,)


def test_prepared_data_set_is_read_by_features():
  source = datasets.load_prepared(
    "mfeat", "test", modalities={"pixels": "pix", "moments": "zer"}
  )
  columns = records.read_records("mfeat", "test")
  assert source.modalities == ("pixels", "moments")
  rows = np.array([5, 99])
  np.testing.assert_array_equal(
    source.inputs("pixels", rows), columns["pix"][rows]
  )
  np.testing.assert_array_equal(source.labels, columns["label"])


def test_prepared_data_set_is_decoded_by_the_callers_functions():
  def waveforms(column):
    return audio.decode_waveforms(
      column.tolist(), sample_rate=8000, num_samples=100
    ).samples

  source = datasets.load_prepared(
    records.find_prepared("multimodal_digits/speech"),
    "test[:7]",
    modalities={"sound": "flac"},
    decode={"sound": waveforms},
    label=None,
  )
  assert source.spec["sound"].shape == (100,)
  assert len(source) == 7 and (source.labels == -1).all()


def test_unknown_feature_names_those_that_exist():
  with pytest.raises(ValueError, match="'fac', 'fou'.*'gab'"):
    datasets.load_prepared("mfeat", "test", modalities={"a": "gab"})
  with pytest.raises(ValueError, match="'class'"):
    datasets.load_prepared(
      "mfeat", "test", modalities={"a": "pix"}, label="class"
    )


def test_text_that_is_not_decoded_is_an_error():
  with pytest.raises(ValueError, match="expected numbers in 'word'"):
    datasets.load_prepared(
      "multimodal_digits/text", "test", modalities={"word": "text"}
    )
