"""TFDS builder of `multimodal_digits`: ten digits drawn, spoken and named.

Four configs, each a table of items of one modality. The items of different
configs come from different people: they share a class, not an instance.
"""

from __future__ import annotations

import functools
import inspect
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.builders import raw, spoken

_OBTAIN_IMAGES = (
  "Download 'Optical Recognition of Handwritten Digits' from the UCI Machine "
  "Learning Repository (dataset 80) and put optdigits.tra and optdigits.tes "
  "into the folder of raw files."
)
_OBTAIN_PEN = (
  "Download 'Pen-Based Recognition of Handwritten Digits' from the UCI "
  "Machine Learning Repository (dataset 81) and put pendigits.tra and "
  "pendigits.tes into the folder of raw files."
)
_LICENSES = {
  "image": "CC BY 4.0",
  "pen": "CC BY 4.0",
  "speech": "CC BY-SA 4.0",
  "text": "Apache-2.0",
}
_CITATIONS = {
  "image": """@misc{optdigits,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}""",
  "pen": """@misc{pendigits,
  author = {Alpaydin, E. and Alimoglu, F.},
  title = {Pen-Based Recognition of Handwritten Digits},
  year = {1996},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C5MG6K},
}""",
  "speech": """@misc{fsdd,
  author = {Jackson, Zohar and others},
  title = {Free Spoken Digit Dataset},
  url = {https://github.com/Jakobovski/free-spoken-digit-dataset},
}""",
  "text": "",
}


class MultimodalDigits(tfds.core.GeneratorBasedBuilder):
  """Handwritten, drawn, spoken and written digits.

  * `image`: 8x8 grey images, 0 to 16 (UCI optdigits). The official split: no
    writer is in both splits.
  * `pen`: 8 points (x, y) along the pen's path, 0 to 100 (UCI pendigits). The
    official split: no writer is in both splits.
  * `speech`: recordings at 8 kHz as FLAC (Free Spoken Digit Dataset). The
    official split: recordings 0 to 4 of every speaker and digit are the test
    split; every speaker is in both. Waveforms are requantised, see
    `spoken.requantise`.
  * `text`: the name of the digit in twelve languages. Both splits hold the
    same 120 words, since there are no others.

  Within a split the records keep the order of the raw files; recordings are
  ordered by digit, speaker and recording.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name="image", description="8x8 grey images"),
    tfds.core.BuilderConfig(name="speech", description="8 kHz recordings"),
    tfds.core.BuilderConfig(name="text", description="names of the digits"),
    tfds.core.BuilderConfig(name="pen", description="paths of a pen"),
  ]
  MANUAL_DOWNLOAD_INSTRUCTIONS = " ".join(
    (_OBTAIN_IMAGES, _OBTAIN_PEN, spoken.OBTAIN)
  )
  # Where TFDS looks for checksums of downloads, of which there are none.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=inspect.cleandoc(type(self).__doc__ or ""),
      features=tfds.features.FeaturesDict(
        {
          "label": tfds.features.ClassLabel(num_classes=10),
          **_features(self.builder_config.name),
        }
      ),
      citation=_CITATIONS[self.builder_config.name],
      license=_LICENSES[self.builder_config.name],
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
    # Only the words need no raw files, so only they may have no folder.
    if self.builder_config.name == "text":
      words = list(_read_words())
      return {split: enumerate(words) for split in ("train", "test")}
    read = {
      "image": _read_images,
      "pen": _read_pen,
      "speech": spoken.read_recordings,
    }
    tables = read[self.builder_config.name](pathlib.Path(dl_manager.manual_dir))
    return {split: enumerate(examples) for split, examples in tables.items()}

  def _generate_examples(self):
    raise NotImplementedError("`_split_generators` returns the examples.")


def _features(config: str) -> dict[str, Any]:
  tensor = tfds.features.Tensor
  if config == "image":
    return {"image": tensor(shape=(8, 8, 1), dtype=np.uint8, encoding="bytes")}
  if config == "pen":
    return {"pen": tensor(shape=(8, 2), dtype=np.uint8, encoding="bytes")}
  if config == "speech":
    # FLAC bytes and not tfds.features.Audio, which needs TensorFlow to read.
    return {
      "flac": tensor(shape=(), dtype=np.object_),
      "speaker": tfds.features.Text(),
      "recording": np.int64,
    }
  return {"text": tfds.features.Text(), "language": tfds.features.Text()}


def _read_images(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  return _read_uci(
    folder,
    "optdigits",
    {"train": ("tra", 3823), "test": ("tes", 1797)},
    feature="image",
    shape=(8, 8, 1),
    maximum=16,
    obtain=_OBTAIN_IMAGES,
  )


def _read_pen(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  return _read_uci(
    folder,
    "pendigits",
    {"train": ("tra", 7494), "test": ("tes", 3498)},
    feature="pen",
    shape=(8, 2),
    maximum=100,
    obtain=_OBTAIN_PEN,
  )


def _read_uci(
  folder: pathlib.Path,
  name: str,
  splits: Mapping[str, tuple[str, int]],
  *,
  feature: str,
  shape: tuple[int, ...],
  maximum: int,
  obtain: str,
) -> dict[str, list[dict[str, Any]]]:
  """Reads comma-separated rows: the values, then the label."""
  size = int(np.prod(shape))
  examples = {}
  for split, (suffix, num_rows) in splits.items():
    path = folder / f"{name}.{suffix}"
    table = raw.read_table(
      path,
      num_rows=num_rows,
      num_columns=size + 1,
      delimiter=",",
      obtain=obtain,
    )
    cast = functools.partial(
      raw.cast, dtype=np.uint8, name=path.name, obtain=obtain
    )
    values = cast(table[:, :size], maximum=maximum)
    labels = cast(table[:, size:], maximum=9)[:, 0]
    examples[split] = [
      {"label": int(label), feature: value.reshape(shape)}
      for value, label in zip(values, labels, strict=True)
    ]
  return examples


def _read_words() -> Iterator[dict[str, Any]]:
  path = pathlib.Path(__file__).parent / "digit_words.json"
  languages = json.loads(path.read_text(encoding="utf-8"))
  for language, words in languages.items():
    for label, word in enumerate(words):
      yield {"label": label, "text": word, "language": language}
