"""TFDS builder of the retrieval benchmarks, from a user's own copy.

One class, as the data sets differ in nothing but where their files are: the
configs say so. What their annotation files look like is in `benchmarks`.
"""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.benchmarks import (
  BENCHMARKS,
  BenchmarkManifest,
  benchmark_manifest,
)
from pmrl_jax.data.failures import Failure, FailureLog
from pmrl_jax.data.manifest import (
  Encoding,
  Manifest,
  complete,
  example_of,
  features_of,
  read_manifest,
  write_table,
)

# Every split of every data set has all of them; one that it lacks is absent
# from all rows.
KINDS = {
  "video": "video",
  "audio": "audio",
  **dict.fromkeys(
    ("text", "subtitle", "audio_caption", "vision_caption"), "text"
  ),
}
BAD_EXAMPLES = "bad_examples.jsonl"


@dataclasses.dataclass(eq=False, kw_only=True)
class RetrievalConfig(tfds.core.BuilderConfig):
  """Where the files of a data set are, and how media are stored.

  Attributes:
    benchmark: a key of `BENCHMARKS`.
    annotations: the folder of the annotation files, in the folder of raw
      files. A split without a file of its usual names is left out.
    media: the folder of the videos, for Clotho of the recordings; one for
      all splits, or one for each.
    audio: the folder of the sound files, if there is one; else they are
      looked for beside the videos and in them.
    encoding: see `Encoding`.
    max_bad: the share of rows, 0 to 1, of which something may be unreadable.
  """

  benchmark: str
  annotations: str = "annotations"
  media: str | Mapping[str, str] = "videos"
  audio: str = "audio"
  encoding: Encoding = Encoding()
  max_bad: float = 0.01


_CLOTHO = {
  "train": "development",
  "validation": "validation",
  "test": "evaluation",
}


class Retrieval(tfds.core.GeneratorBasedBuilder):
  """A retrieval benchmark: videos or recordings, and texts on them.

  Every row of the annotation files is a record, in their order. What is not
  there or cannot be read is absent from its record, as are all of `video`,
  `audio`, `text`, `subtitle`, `audio_caption` and `vision_caption` that a data
  set does not have; the metadata counts what is present. Nothing is left out
  or replaced. Frames are JPEG files, sounds FLAC files.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Bring your own copy: a folder with annotations/, videos/ and, if there "
    "are sound files, audio/, as the data set's page in docs/datasets has it."
  )
  BUILDER_CONFIGS = [  # noqa: RUF012
    RetrievalConfig(name="msrvtt", benchmark="msrvtt"),
    RetrievalConfig(name="didemo", benchmark="didemo"),
    RetrievalConfig(name="activitynet", benchmark="activitynet"),
    RetrievalConfig(name="vatex", benchmark="vatex"),
    RetrievalConfig(name="audiocaps", benchmark="audiocaps"),
    RetrievalConfig(name="clotho", benchmark="clotho", media=_CLOTHO),
    RetrievalConfig(name="vast", benchmark="vast", annotations="."),
  ]
  # Where TFDS looks for checksums of downloads, of which there are none.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=inspect.cleandoc(type(self).__doc__ or ""),
      features=features_of(KINDS),
      metadata=tfds.core.MetadataDict(kinds=KINDS, present={}, notes={}),
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
    folder = pathlib.Path(dl_manager.manual_dir)
    config: RetrievalConfig = self.builder_config
    found = {
      split: benchmark_manifest(
        config.benchmark,
        split,
        annotations=folder / config.annotations,
        media=_folder(folder, _media(config, split)),
        audio=_folder(folder, config.audio),
      )
      for split in _splits(folder, config)
    }
    manifests = {split: _typed(each) for split, each in found.items()}
    total = sum(map(len, manifests.values()))
    # TFDS gives a folder of another name while it is not finished.
    log = FailureLog(
      pathlib.Path(self.data_dir) / BAD_EXAMPLES,
      num_examples=total,
      max_share=config.max_bad,
    )
    for split, manifest in manifests.items():
      self.info.metadata["notes"][split] = found[split].notes
      counts = dict(zip(manifest.kinds, manifest.where.sum(axis=0).tolist()))
      self.info.metadata["present"][split] = {
        modality: counts.get(modality, 0) for modality in KINDS
      }
    return {
      split: self._generate_examples(manifest, log)
      for split, manifest in manifests.items()
    }

  def _generate_examples(
    self, manifest: Manifest, log: FailureLog
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    nothing = dict.fromkeys(KINDS)
    for row in range(len(manifest)):
      broken: dict[str, str] = {}
      encoding = self.builder_config.encoding
      example = example_of(manifest, row, encoding, broken=broken)
      log.add([Failure(example["id"], *item) for item in broken.items()])
      yield row, complete(self.info.features, nothing | example)


def _splits(folder: pathlib.Path, config: RetrievalConfig) -> list[str]:
  """The splits whose annotation files are there."""
  benchmark = BENCHMARKS[config.benchmark]
  annotations = folder / config.annotations
  # Other splits of the same videos have a config of their own, if any.
  files = {
    split: names
    for split, names in benchmark.files.items()
    if not split.startswith("official_")
  }
  splits = [
    split
    for split, names in files.items()
    if any((annotations / name).is_file() for name in names)
  ]
  if not splits:
    known = sorted({name for names in files.values() for name in names})
    raise FileNotFoundError(
      f"expected annotation files of {config.benchmark} in {annotations}, one "
      f"or more of {known}; see its page in docs/datasets"
    )
  return splits


def _media(config: RetrievalConfig, split: str) -> str:
  return config.media if isinstance(config.media, str) else config.media[split]


def _folder(folder: pathlib.Path, name: str) -> pathlib.Path | None:
  return folder / name if (folder / name).is_dir() else None


def _typed(found: BenchmarkManifest) -> Manifest:
  """Returns the table as `read_manifest` gives it, with all its checks."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "manifest.parquet"
    write_table(found.table, path)
    return read_manifest(path, kinds=found.kinds, root=found.root)
