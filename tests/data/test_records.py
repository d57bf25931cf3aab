"""The prepared records that ship with the package, and reading any others."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from pmrl_jax.data import records

DIGITS = ("image", "speech", "text", "pen")
# Records per class as the data sets' own documentation gives them.
OFFICIAL_COUNTS = {
  ("multimodal_digits/image", "train"): [
    376, 389, 380, 389, 387, 376, 377, 387, 380, 382,
  ],
  ("multimodal_digits/image", "test"): [
    178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
  ],
  ("multimodal_digits/pen", "train"): [
    780, 779, 780, 719, 780, 720, 720, 778, 719, 719,
  ],
  ("multimodal_digits/pen", "test"): [
    363, 364, 364, 336, 364, 335, 336, 364, 336, 336,
  ],
  ("multimodal_digits/speech", "train"): [270] * 10,
  ("multimodal_digits/speech", "test"): [30] * 10,
  ("multimodal_digits/text", "train"): [12] * 10,
  ("multimodal_digits/text", "test"): [12] * 10,
  ("mfeat", "train"): [140] * 10,
  ("mfeat", "test"): [60] * 10,
}  # fmt: skip


@pytest.mark.parametrize(("data_set", "split"), OFFICIAL_COUNTS)
def test_shipped_splits_have_the_official_counts(data_set, split):
  labels = records.read_records(data_set, split)["label"]
  counts = np.bincount(labels, minlength=10).tolist()
  assert counts == OFFICIAL_COUNTS[data_set, split]


def test_shipped_columns_have_the_documented_shapes_and_ranges():
  image = records.read_records("multimodal_digits/image", "test")["image"]
  assert image.shape[1:] == (8, 8, 1) and image.dtype == np.uint8
  assert (image.min(), image.max()) == (0, 16)
  pen = records.read_records("multimodal_digits/pen", "test")["pen"]
  assert pen.shape[1:] == (8, 2) and pen.dtype == np.uint8
  assert (pen.min(), pen.max()) == (0, 100)
  views = records.read_records("mfeat", "test")
  sizes = {"pix": 240, "fou": 76, "fac": 216, "zer": 47, "kar": 64, "mor": 6}
  for view, size in sizes.items():
    assert views[view].shape == (600, size)
    # No view is a constant or an index, as a wrong dtype would leave it.
    assert np.ptp(views[view].astype(np.float64)) > 1


def test_no_recording_is_in_both_splits_and_every_speaker_is():
  def recordings(split):
    columns = records.read_records("multimodal_digits/speech", split)
    keys = zip(
      columns["label"], columns["speaker"], columns["recording"], strict=True
    )
    return {(int(a), b, int(c)) for a, b, c in keys}

  train, test = recordings("train"), recordings("test")
  assert len(train) == 2700 and len(test) == 300
  assert not {key[1:] for key in train} & {key[1:] for key in test}
  assert {key[1] for key in train} == {key[1] for key in test}
  assert {key[2] for key in test} == set(range(5))


def test_recordings_decode_to_8_khz_16_bit_speech():
  encoded = records.read_records("multimodal_digits/speech", "test")["flac"]
  lengths, silent = [], 0
  for content in encoded:
    waveform, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 8000 and waveform.ndim == 1
    lengths.append(len(waveform))
    silent += not waveform.any()
  assert silent == 0
  assert sum(lengths) == 1034030


def test_words_are_the_same_in_both_splits():
  train = records.read_records("multimodal_digits/text", "train")
  test = records.read_records("multimodal_digits/text", "test")
  assert train["text"].tolist() == test["text"].tolist()
  assert train["text"][23] == "trois"
  assert len(set(train["language"])) == 12
  assert "sıfır" in train["text"] and "fünf" in train["text"]


def test_reading_does_not_import_tensorflow():
  program = (
    "import sys\n"
    "from pmrl_jax.data import datasets, evaluation_batches\n"
    "source = datasets.multimodal_digits('test')\n"
    "next(evaluation_batches(source, batch_size=8, process_index=0,"
    " process_count=1))\n"
    "datasets.mfeat('test')\n"
    "assert 'tensorflow' not in sys.modules\n"
  )
  subprocess.run([sys.executable, "-c", program], check=True)


def _size(folder: pathlib.Path) -> int:
  return sum(path.stat().st_size for path in folder.rglob("*"))


def test_shipped_data_stays_within_its_budgets():
  assert 7e6 < _size(records.SHIPPED / "multimodal_digits") < 8e6
  assert 1e6 < _size(records.SHIPPED / "mfeat") < 2e6


def test_notices_name_every_source_its_licence_and_the_changes():
  digits = (records.SHIPPED / "multimodal_digits/NOTICE.md").read_text()
  for words in (
    "Alpaydin and C. Kaynak", "10.24432/C50P49", "F. Alimoglu",
    "10.24432/C5MG6K", "Free Spoken Digit Dataset", "CC BY 4.0",
    "CC BY-SA 4.0", "Apache-2.0",
  ):  # fmt: skip
    assert words in digits
  assert digits.count("Changes:") == 3
  mfeat = (records.SHIPPED / "mfeat/NOTICE.md").read_text()
  for words in ("R. Duin, 1998", "10.24432/C5HC70", "CC BY 4.0", "Changes"):
    assert words in mfeat
  licences = {
    config: next(
      (records.SHIPPED / "multimodal_digits" / config).glob("*/LICENSE")
    ).read_text()
    for config in DIGITS
  }
  assert licences == {
    "image": "CC BY 4.0",
    "pen": "CC BY 4.0",
    "speech": "CC BY-SA 4.0",
    "text": "Apache-2.0",
  }


def test_metadata_holds_no_path_of_the_machine_that_prepared_it():
  files = list(records.SHIPPED.rglob("*.json"))
  assert len(files) == 10
  for file in files:
    values = [json.loads(file.read_text())]
    while values:
      value = values.pop()
      if isinstance(value, dict):
        values.extend(value.values())
      elif isinstance(value, list):
        values.extend(value)
      elif isinstance(value, str):
        assert not value.startswith(("/", "~", "file:"))


def test_slices_of_a_split_are_read():
  whole = records.read_records("multimodal_digits/text", "train")
  part = records.read_records("multimodal_digits/text", "train[10:20]")
  assert part["text"].tolist() == whole["text"][10:20].tolist()


def test_records_are_read_from_a_folder_and_from_its_newest_version(tmp_path):
  shipped = records.find_prepared("multimodal_digits/text")
  for version in ("1.9.0", "1.10.0"):
    folder = tmp_path / version
    folder.mkdir()
    for file in shipped.iterdir():
      text = file.read_bytes()
      if file.name == "dataset_info.json":
        text = text.replace(b'"1.0.0"', f'"{version}"'.encode())
      (folder / file.name).write_bytes(text)
  assert records.find_prepared(tmp_path) == tmp_path / "1.10.0"
  direct = records.read_records(tmp_path / "1.9.0", "test")
  assert direct["text"][0] == "zero"


def test_features_of_varying_length_are_kept_apart(tmp_path):
  class Lists(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
      feature = tfds.features.Tensor(shape=(None,), dtype=np.int64)
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict({"list": feature}),
        disable_shuffling=True,
      )

    def _split_generators(self, dl_manager):
      return {
        "train": [(i, {"list": np.arange(i)}) for i in range(3)],
        "even": [(i, {"list": np.full(2, i)}) for i in range(3)],
      }

    def _generate_examples(self):
      raise NotImplementedError

  builder = Lists(data_dir=tmp_path, file_format="array_record")
  builder.download_and_prepare(download_dir=tmp_path / "downloads")
  column = records.read_records(builder.data_dir, "train")["list"]
  assert [value.tolist() for value in column] == [[], [0], [0, 1]]
  column = records.read_records(builder.data_dir, "even")["list"]
  np.testing.assert_array_equal(column, [[0, 0], [1, 1], [2, 2]])


def test_unknown_data_set_names_those_that_ship():
  with pytest.raises(FileNotFoundError, match="multimodal_digits/image"):
    records.read_records("spoken_letters", "train")


def test_missing_folder_is_named(tmp_path):
  with pytest.raises(FileNotFoundError, match="nowhere"):
    records.read_records(tmp_path / "nowhere", "train")


def test_unknown_split_names_those_that_exist():
  with pytest.raises(ValueError, match=r"\['test', 'train'\].*'validation'"):
    records.read_records("mfeat", "validation")


def test_empty_split_is_an_error():
  with pytest.raises(ValueError, match="empty"):
    records.read_records("mfeat", "train[:0]")
