"""The builders turn public raw files into exactly the records that ship.

The raw files are written from the shipped records themselves: all changes that
the builders make are such that making them twice changes nothing.
"""

import io
import pathlib
import shutil

import numpy as np
import pytest
import soundfile

from pmrl_jax.data import records
from pmrl_jax.data.datasets import builders
from pmrl_jax.data.datasets.builders import mfeat, raw, spoken

SPLITS = ("train", "test")
SHIPPED = ("mfeat", "multimodal_digits")


def _decode(content):
  return soundfile.read(io.BytesIO(content), dtype="int16")[0]


def _write_table(path, values, labels, delimiter):
  table = np.hstack([values.reshape(len(values), -1), labels[:, np.newaxis]])
  np.savetxt(path, table, fmt="%3d", delimiter=delimiter)


def _write_raw_digits(folder: pathlib.Path):
  for name, feature, stem in (
    ("image", "image", "optdigits"),
    ("pen", "pen", "pendigits"),
  ):
    for split, suffix in (("train", "tra"), ("test", "tes")):
      columns = records.read_records(f"multimodal_digits/{name}", split)
      _write_table(
        folder / f"{stem}.{suffix}", columns[feature], columns["label"], ","
      )
  (folder / "recordings").mkdir()
  for split in SPLITS:
    columns = records.read_records("multimodal_digits/speech", split)
    for label, speaker, recording, content in zip(
      columns["label"],
      columns["speaker"],
      columns["recording"],
      columns["flac"],
      strict=True,
    ):
      path = folder / "recordings" / f"{label}_{speaker}_{recording}.wav"
      soundfile.write(path, _decode(content), 8000, subtype="PCM_16")


def _write_raw_mfeat(folder: pathlib.Path):
  columns = {s: records.read_records("mfeat", s) for s in SPLITS}
  is_test = np.zeros(2000, bool)
  is_test[mfeat.read_test_rows()] = True
  for view, (size, dtype, scale) in mfeat.VIEWS.items():
    table = np.zeros((2000, size))
    for split, rows in (("train", ~is_test), ("test", is_test)):
      table[rows] = columns[split][view].astype(np.float64) / scale
    is_count = np.issubdtype(dtype, np.integer) and scale == 1
    np.savetxt(folder / f"mfeat-{view}", table, "%d" if is_count else "%.9g")


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("raw")
  _write_raw_digits(folder)
  _write_raw_mfeat(folder)
  return folder


@pytest.fixture(scope="module")
def prepared(raw_dir, tmp_path_factory):
  data_dir = tmp_path_factory.mktemp("prepared")
  for name in SHIPPED:
    builders.prepare(name, raw_dir=raw_dir, data_dir=data_dir)
  return data_dir


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
  "data_set",
  ["mfeat", *(f"multimodal_digits/{c}" for c in ("image", "pen", "text"))],
)
def test_builder_reproduces_the_shipped_records(prepared, data_set, split):
  _assert_columns_equal(
    records.read_records(prepared / data_set, split),
    records.read_records(data_set, split),
  )


@pytest.mark.parametrize("split", SPLITS)
def test_builder_reproduces_every_recording(prepared, split):
  built, shipped = (
    records.read_records(where, split)
    for where in (
      prepared / "multimodal_digits/speech",
      "multimodal_digits/speech",
    )
  )
  # FLAC encoders of different versions may pack the same samples differently.
  for content, expected in zip(
    built.pop("flac"), shipped.pop("flac"), strict=True
  ):
    np.testing.assert_array_equal(_decode(content), _decode(expected))
  _assert_columns_equal(built, shipped)


def _assert_columns_equal(columns, expected):
  assert columns.keys() == expected.keys()
  for name, column in expected.items():
    assert columns[name].dtype == column.dtype
    np.testing.assert_array_equal(columns[name], column)


@pytest.mark.parametrize("name", SHIPPED)
def test_builder_writes_the_shipped_metadata(prepared, name):
  shipped = records.SHIPPED / name
  files = [
    *shipped.rglob("features.json"),
    *shipped.rglob("LICENSE"),
    *shipped.rglob("dataset_info.json"),
  ]
  assert len(files) in (3, 12)
  for file in files:
    built = prepared / file.relative_to(records.SHIPPED)
    lines = [
      [line for line in path.read_text().splitlines() if "numBytes" not in line]
      for path in (built, file)
    ]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("seed", range(20))
def test_requantising_twice_changes_nothing_more(seed):
  rng = np.random.default_rng(seed)
  loudness = 10 ** rng.uniform(0, 4.5)
  waveform = rng.laplace(0, loudness, 4000) * rng.random(4000)
  waveform = np.clip(waveform, -32768, 32767).astype(np.int16)
  once = spoken.requantise(waveform)
  np.testing.assert_array_equal(spoken.requantise(once), once)
  assert once.dtype == np.int16
  power = np.mean(waveform.astype(np.float64) ** 2)
  noise = np.mean((once - waveform.astype(np.float64)) ** 2)
  # One more doubling of the step than the rule says is 6 dB.
  assert noise <= power * 10 ** (-(spoken.NOISE_BELOW_SIGNAL - 7) / 10)


def test_requantising_full_scale_does_not_overflow():
  waveform = np.array([32767, -32768] * 50, np.int16)
  once = spoken.requantise(waveform)
  assert (np.sign(once) == np.sign(waveform)).all()
  # 2^12 is the step, and 8 steps are one too many for int16.
  np.testing.assert_array_equal(np.abs(once), 7 * 2**12)


def test_test_rows_of_mfeat_follow_the_documented_rule():
  rng = np.random.default_rng(0)
  rows = [
    rng.permutation(np.arange(200 * c, 200 * (c + 1)))[140:] for c in range(10)
  ]
  np.testing.assert_array_equal(
    mfeat.read_test_rows(), np.sort(np.concatenate(rows))
  )


def test_unknown_data_set_is_an_error(tmp_path):
  with pytest.raises(
    ValueError, match="'mfeat', 'multimodal_digits', 'retrieval'"
  ):
    builders.prepare("letters", raw_dir=tmp_path, data_dir=tmp_path)


def test_missing_folder_says_how_to_obtain_the_files(tmp_path):
  with pytest.raises(FileNotFoundError, match="UCI Machine Learning"):
    builders.prepare(
      "mfeat", raw_dir=tmp_path / "nowhere", data_dir=tmp_path / "out"
    )


def test_missing_file_says_which_and_leaves_nothing_behind(tmp_path, raw_dir):
  for view in ("pix", "fou"):
    shutil.copy(raw_dir / f"mfeat-{view}", tmp_path)
  with pytest.raises(FileNotFoundError, match="mfeat-fac is missing.*dataset"):
    builders.prepare("mfeat", raw_dir=tmp_path, data_dir=tmp_path / "out")
  assert not list((tmp_path / "out").rglob("*.json"))


def _table(path, **changes):
  arguments = {"num_rows": 2, "num_columns": 3, "delimiter": ","}
  return raw.read_table(path, obtain="Get it.", **arguments | changes)


def test_table_of_another_size_or_with_words_is_an_error(tmp_path):
  path = tmp_path / "table"
  for content, message in (
    ("1,2,3\n", "got 1 rows with 3. Get it."),
    ("1,2\n3,4\n", "got 2 rows with 2. Get it."),
    ("1,2,3\n4,5\n", "malformed; expected a text table of 2 rows with 3"),
    ("1,2,3\n4,five,6\n", "malformed.*five"),
    ("", "empty"),
  ):
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
      _table(path)
  path.write_text("1,2,3\n4,5,6\n")
  np.testing.assert_array_equal(_table(path), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("bad", [17, -1, 0.5, np.nan, np.inf])
def test_value_that_does_not_fit_names_file_and_row(bad):
  table = np.array([[0.0, 16], [3, bad]])
  with pytest.raises(ValueError, match="digits.tra .* in row 2. Get it."):
    raw.cast(
      table, dtype=np.uint8, maximum=16, name="digits.tra", obtain="Get it."
    )


def test_measurements_are_rounded_where_asked():
  values = np.array([[1.4, -2.6]])
  rounded = raw.cast(values, dtype=np.int8, name="x", obtain="", rounding=True)
  np.testing.assert_array_equal(rounded, [[1, -3]])
  with pytest.raises(ValueError, match="from -128 to 127, got 200.0"):
    raw.cast(
      np.array([[200.0]]), dtype=np.int8, name="x", obtain="", rounding=True
    )


@pytest.mark.parametrize("rate, shape", [(16000, (80,)), (8000, (80, 2))])
def test_recording_of_another_kind_is_an_error(tmp_path, rate, shape):
  (tmp_path / "recordings").mkdir()
  path = tmp_path / "recordings" / "0_george_0.wav"
  soundfile.write(path, np.zeros(shape, np.int16), rate)
  with pytest.raises(ValueError, match=f"0_george_0.wav.*got {rate} Hz"):
    spoken.read_recordings(tmp_path)


def test_recording_that_is_no_sound_or_missing_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match="0_george_0.wav is missing"):
    spoken.read_recordings(tmp_path)
  (tmp_path / "recordings").mkdir()
  (tmp_path / "recordings" / "0_george_0.wav").write_bytes(b"no sound")
  with pytest.raises(ValueError, match="0_george_0.wav is malformed"):
    spoken.read_recordings(tmp_path)
