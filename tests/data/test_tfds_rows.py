"""Any prepared TFDS data set as rows, without TensorFlow."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
import tensorflow_datasets as tfds

from pmrl_jax.data import RowSource, Spec, training_iterator
from pmrl_jax.data.tfds_rows import TfdsRows


def png(level):
  """A file in memory, so that TFDS has nothing to encode."""
  content = io.BytesIO()
  PIL.Image.fromarray(np.full((6, 7, 3), level, np.uint8)).save(content, "PNG")
  return io.BytesIO(content.getvalue())


class Sample(tfds.core.GeneratorBasedBuilder):
  """Five records with a feature of every form."""

  VERSION = tfds.core.Version("1.0.0")
  # TFDS looks for the code of a class from another module in its package.
  __module__ = "__main__"

  def _info(self):
    picture = tfds.features.Image(shape=(None, None, 3))
    features = {
      "name": tfds.features.Text(),
      "image": picture,
      "clip": {"frames": tfds.features.Sequence(picture)},
      "captions": tfds.features.Sequence(tfds.features.Text()),
      "title": tfds.features.Text(),
      "label": tfds.features.ClassLabel(names=["cat", "dog", "owl"]),
      "vector": tfds.features.Tensor(shape=(4,), dtype=np.float32),
      "sound": tfds.features.Tensor(shape=(), dtype=np.object_),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(5):
      yield (
        i,
        {
          "name": f"row {i}",
          "image": png(20 * i),
          "clip": {"frames": [png(20 * i), png(20 * i + 1)]},
          "captions": [f"a {i}", f"b {i}"][: i % 3],
          "title": "" if i == 1 else f"title {i}",
          "label": i % 3,
          "vector": np.full(4, i, np.float32),
          "sound": b"RIFF",
        },
      )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  builder = Sample(data_dir=folder, file_format="array_record")
  builder.download_and_prepare(download_dir=folder / "downloads")
  assert "tensorflow" not in sys.modules
  return folder


FEATURES = {
  "picture": "image",
  "clip": "clip/frames",
  "words": "captions",
  "title": "title",
  "kind": "label",
  "numbers": "vector",
}


def test_features_become_modalities_of_their_kind(data_dir):
  rows = TfdsRows(
    "sample",
    "train",
    data_dir=data_dir,
    features=FEATURES,
    ids="name",
    label="label",
  )
  assert rows.kinds == {
    "picture": "image",
    "clip": "video",
    "words": "text",
    "title": "text",
    "kind": "text",
    "numbers": "vector",
  }
  assert sorted(rows.ids) == [f"row {i}" for i in range(5)]
  for index, name in enumerate(rows.ids):
    i = int(name.split()[1])
    assert rows.labels[index] == i % 3
    assert rows.value(index, "picture").tolist()[0][0] == [20 * i] * 3
    assert [int(f[0, 0, 0]) for f in rows.value(index, "clip")] == [
      20 * i,
      20 * i + 1,
    ]
    words = [f"a {i}", f"b {i}"][: i % 3]
    assert rows.value(index, "words") == (words or None)
    assert rows.value(index, "kind") == [["cat", "dog", "owl"][i % 3]]
    np.testing.assert_array_equal(rows.value(index, "numbers"), np.full(4, i))
    # An empty value is an absent one.
    expected = [True, True, bool(words), i != 1, True, True]
    assert rows.where[index].tolist() == expected


def test_images_are_decoded_when_they_are_asked_for(data_dir, monkeypatch):
  decoded = []
  decode = tfds.features.Image.decode_example_np

  def counted(self, example):
    decoded.append(example)
    return decode(self, example)

  monkeypatch.setattr(tfds.features.Image, "decode_example_np", counted)
  features = {"picture": "image", "title": "title"}
  with_image = TfdsRows("sample", "train", data_dir=data_dir, features=features)
  without = TfdsRows(
    "sample", "train", data_dir=data_dir, features={"vector": "vector"}
  )
  # The clips of every record are a sequence, which TFDS decodes in any case.
  clips = 2 * 2 * len(with_image.ids)
  assert len(decoded) == clips and with_image.where[:, 0].all()
  assert with_image.value(0, "picture").shape == (6, 7, 3)
  assert len(decoded) == clips + 3
  without.value(0, "vector")
  assert len(decoded) == clips + 5


class Mean:
  """The mean of a picture."""

  spec = Spec((), np.dtype(np.float32))

  def __call__(self, rng, value):
    return np.float32(np.mean(value))


def test_worker_processes_read_the_same_records(data_dir):
  rows = TfdsRows(
    data_dir / "sample" / "1.0.0", "train", features={"picture": "image"}
  )
  assert rows.ids[3] == "train/3"
  source = RowSource(rows, {"picture": Mean()}, captions="draw")

  def batch(**options):
    iterator = training_iterator(
      source,
      batch_size=5,
      seed=0,
      process_index=0,
      process_count=1,
      **options,
    )
    values = next(iterator)["inputs"]["picture"]
    iterator.close()
    return values

  values = batch()
  assert sorted(values.tolist()) == [0, 20, 40, 60, 80]
  np.testing.assert_array_equal(batch(num_workers=1), values)


@pytest.mark.parametrize(
  "change,words",
  [
    ({"data_set": "no_such_set"}, "no_such_set --file_format=array_record"),
    ({"split": "test"}, r"splits \['train'\]"),
    ({"features": {"a": "pixels"}}, "no feature 'pixels'"),
    ({"features": {"a": "sound"}}, "give its kind"),
    ({"features": None}, "which features are modalities.*'captions'"),
    ({"kinds": {"a": "film"}}, "'film'"),
  ],
)
def test_mistakes_are_explained(data_dir, change, words):
  arguments = {
    "data_set": "sample",
    "split": "train",
    "features": {"a": "image"},
    "data_dir": data_dir,
    **change,
  }
  with pytest.raises((ValueError, FileNotFoundError), match=words):
    TfdsRows(arguments.pop("data_set"), arguments.pop("split"), **arguments)
