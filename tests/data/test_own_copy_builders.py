"""Builders of data sets that a user brings: nothing lost, all counted."""

import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from pmrl_jax.data import TooManyFailuresError, decoding
from pmrl_jax.data.datasets import builders
from pmrl_jax.data.datasets.benchmarks import BENCHMARKS
from pmrl_jax.data.datasets.builders.retrieval import KINDS, RetrievalConfig
from pmrl_jax.data.manifest import Encoding
from pmrl_jax.data.tfds_rows import TfdsRows

HERE = pathlib.Path(__file__).parent
CLIP = HERE / "fixtures" / "mdn_rabbit320.mp4"
# The annotation file of each fixture, and what is read of its media.
FILES = {
  "msrvtt": ("test", "descs_ret_test.json", "videos/video7.mp4"),
  "didemo": (
    "test",
    "descs_ret_test.json",
    "videos/11111111@N00_2222222222_0123456789.mp4",
  ),
  "activitynet": ("test", "descs_ret_test.json", None),
  "vatex": ("test", "descs_ret_test.json", None),
  "audiocaps": ("test", "test.csv", None),
  "clotho": ("test", "descs_cap_test.json", "evaluation/creek.wav"),
  "vast": ("train", "annotations150k.json", None),
}


def ids_of(name, split, file):
  found = builders.retrieval.benchmark_manifest(
    name, split, annotations=HERE / "annotations" / name / file
  )
  return found.table["id"].to_pylist()


def own_copy(name, folder):
  """Lays out a copy as the page of the data set has it, one file of media."""
  split, file, media = FILES[name]
  annotations = folder / ("." if name == "vast" else "annotations")
  annotations.mkdir(parents=True, exist_ok=True)
  shutil.copy(HERE / "annotations" / name / file, annotations)
  media = media or f"videos/{ids_of(name, split, file)[0]}.mp4"
  path = folder / media
  path.parent.mkdir(exist_ok=True)
  if path.suffix == ".wav":
    soundfile.write(path, np.zeros(800), 8000)
  else:
    shutil.copy(CLIP, path)
  return split, file


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_row_is_a_record_and_what_is_missing_is_counted(name, tmp_path):
  split, file = own_copy(name, tmp_path / "copy")
  (folder,) = builders.prepare(
    f"retrieval/{name}", raw_dir=tmp_path / "copy", data_dir=tmp_path / "out"
  )
  assert "tensorflow" not in sys.modules
  rows = TfdsRows(folder, split)
  assert rows.kinds == KINDS
  assert rows.ids == ids_of(name, split, file)
  where = dict(zip(rows.kinds, rows.where.T))
  assert where["video"].sum() == (name != "clotho")
  assert where["audio"].sum() == 1
  row = int(np.argmax(where["audio"]))
  assert decoding.read_audio(rows.value(row, "audio")).samples.any() == (
    name != "clotho"
  )
  summary = builders.summarise(folder)
  assert summary.num_examples == {split: len(rows.ids)}
  assert summary.num_bad == 0 and list(summary.notes) == [split]
  assert summary.present == {
    split: {name: int(column.sum()) for name, column in where.items()}
  }


def build(config, copy, out):
  builder = builders.Retrieval(
    config=config, data_dir=out, file_format="array_record"
  )
  builder.download_and_prepare(
    download_dir=out / "downloads",
    download_config=tfds.download.DownloadConfig(manual_dir=copy),
  )
  return builder


def test_a_broken_video_is_absent_and_listed_or_too_many(tmp_path):
  own_copy("msrvtt", tmp_path / "copy")
  torn = tmp_path / "copy" / "videos" / "video12.mp4"
  torn.write_bytes(CLIP.read_bytes()[:9000])
  # What to ask of its header is asked of the sound track, too.
  settings = {
    "name": "small",
    "benchmark": "msrvtt",
    "encoding": Encoding(num_frames=2, shorter_side=32),
  }
  config = RetrievalConfig(**settings, max_bad=0.5)
  builder = build(config, tmp_path / "copy", tmp_path / "out")
  folder = pathlib.Path(builder.data_dir)
  lines = (folder / "bad_examples.jsonl").read_text().splitlines()
  assert {json.loads(line)["name"] for line in lines} == {"video12"}
  rows = TfdsRows(folder, "test")
  frames = rows.value(0, "video")
  assert len(frames) == 2
  assert min(decoding.read_image(frames[0]).shape[:2]) == 32
  assert rows.value(1, "video") is None
  with pytest.raises(TooManyFailuresError, match="video12"):
    build(RetrievalConfig(**settings), tmp_path / "copy", tmp_path / "other")


def test_tfds_knows_the_builders_by_name(tmp_path):
  builder = tfds.builder("retrieval/vatex", data_dir=tmp_path)
  assert builder.builder_config.benchmark == "vatex"
  assert tfds.builder("abide/site_NYU", data_dir=tmp_path).builder_config.fold


@pytest.mark.parametrize(
  ("name", "words"),
  [
    ("retrieval", "retrieval/msrvtt.*they are .'msrvtt'"),
    ("retrieval/msrvt", "got 'retrieval/msrvt'"),
    ("mfeat/small", "got 'mfeat/small'"),
    ("abide", "abide/fold_0"),
  ],
)
def test_a_config_that_is_not_there_is_explained(name, words, tmp_path):
  with pytest.raises(ValueError, match=words):
    builders.prepare(name, raw_dir=tmp_path, data_dir=tmp_path / "out")


def test_a_folder_without_annotations_is_explained(tmp_path):
  (tmp_path / "copy" / "videos").mkdir(parents=True)
  with pytest.raises(FileNotFoundError, match="descs_ret_test.json"):
    builders.prepare(
      "retrieval/vatex", raw_dir=tmp_path / "copy", data_dir=tmp_path / "out"
    )
