"""TFDS builder of `abide`: one split of a user's own copy of ABIDE."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.abide import (
  MODALITIES,
  AbideTables,
  choose_split,
  read_abide,
  split_sources,
)
from pmrl_jax.data.datasets.abide.phenotype import FEATURES
from pmrl_jax.data.manifest import complete, features_of
from pmrl_jax.data.sources import ArraySource

KINDS = dict.fromkeys(MODALITIES, "vector")
SITES = (
  *("CALTECH", "CMU", "KKI", "LEUVEN_1", "LEUVEN_2", "MAX_MUN", "NYU", "OHSU"),
  *("OLIN", "PITT", "SBL", "SDSU", "STANFORD", "TRINITY", "UCLA_1", "UCLA_2"),
  *("UM_1", "UM_2", "USM", "YALE"),
)


@dataclasses.dataclass(eq=False, kw_only=True)
class AbideConfig(tfds.core.BuilderConfig):
  """Who is tested, and what is read; see `abide.abide`.

  Attributes:
    fold: 0 to 9, or the name of a site.
    seed: of the ten folds.
    features: columns of the phenotype file.
    quality_checked: whether to leave out scans that a rater failed.
    subjects: the FILE_IDs to read instead of that selection.
  """

  fold: int | str
  seed: int = 0
  features: Sequence[str] = FEATURES
  quality_checked: bool = True
  subjects: Sequence[str] | None = None


class Abide(tfds.core.GeneratorBasedBuilder):
  """ABIDE: brain connectivity, brain structure and phenotype of one person.

  A record is a person; `label` is 1 (autism) or 0 (control), `site` where the
  scan was made, and not an input. The config says who is in the test split:
  `fold_0` to `fold_9`, or all of a site, as `site_NYU`. Quantities are
  standardised by the training split alone, what is missing is 0. A modality of
  which a person has no file is absent, and the metadata counts it.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "First release."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "Bring your own copy: a folder with Phenotypic_V1_0b_preprocessed1.csv, "
    "*_rois_ho.1D and FreeSurfer's tables, as docs/datasets/abide.md has it."
  )
  BUILDER_CONFIGS = [  # noqa: RUF012
    *(AbideConfig(name=f"fold_{fold}", fold=fold) for fold in range(10)),
    *(AbideConfig(name=f"site_{site}", fold=site) for site in SITES),
  ]
  # Where TFDS looks for checksums of downloads, of which there are none.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=inspect.cleandoc(type(self).__doc__ or ""),
      features=tfds.features.FeaturesDict(
        {**features_of(KINDS), "site": tfds.features.Text()}
      ),
      metadata=tfds.core.MetadataDict(kinds=KINDS, present={}, notes={}),
      license="CC BY-NC-SA",
      disable_shuffling=True,
    )

  def _split_generators(
    self, dl_manager: tfds.download.DownloadManager
  ) -> Mapping[str, Iterator[tuple[int, dict[str, Any]]]]:
    config: AbideConfig = self.builder_config
    tables = read_abide(
      pathlib.Path(dl_manager.manual_dir),
      features=config.features,
      quality_checked=config.quality_checked,
      subjects=config.subjects,
    )
    split = choose_split(tables, fold=config.fold, seed=config.seed)
    sources = split_sources(tables, split)
    result = {}
    for name, rows, source in zip(("train", "test"), split, sources):
      counts = source.where.sum(axis=0).tolist()
      self.info.metadata["present"][name] = dict(zip(MODALITIES, counts))
      self.info.metadata["notes"][name] = list(source.notes)
      result[name] = self._generate_examples(tables, rows, source)
    return result

  def _generate_examples(
    self, tables: AbideTables, rows: np.ndarray, source: ArraySource
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    everyone = np.arange(len(rows))
    values = {name: source.inputs(name, everyone) for name in MODALITIES}
    for index, row in enumerate(rows.tolist()):
      example: dict[str, Any] = {
        "id": tables.ids[row],
        "source": "",
        "label": int(tables.labels[row]),
        "site": str(tables.sites[row]),
      }
      for column, name in enumerate(MODALITIES):
        present = source.where[index, column]
        example[name] = values[name][index] if present else None
      yield index, complete(self.info.features, example)
