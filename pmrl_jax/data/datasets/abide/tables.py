"""A copy of ABIDE -> one table per modality, the same subjects in all."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pmrl_jax.data.datasets.abide.connectivity import connectivity_table
from pmrl_jax.data.datasets.abide.features import FeatureTable
from pmrl_jax.data.datasets.abide.phenotype import (
  FEATURES,
  feature_table,
  passes_quality_check,
  read_phenotype,
)
from pmrl_jax.data.datasets.abide.structure import structure_table

MODALITIES = ("connectivity", "structure", "phenotype")
NUM_USUAL = 871  # subjects in the usual selection
_PHENOTYPE_FILE = "Phenotypic_V1_0b_preprocessed1.csv"


class AbideTables(NamedTuple):
  """All subjects; row i is the same person everywhere."""

  arrays: dict[str, np.ndarray]  # float32 [subject, feature], NaN if undefined
  columns: dict[str, tuple[str, ...]]  # the names of the features
  scaled: dict[str, np.ndarray]  # bool [feature]: to be standardised
  where: np.ndarray  # bool [subject, modality]: who has what
  labels: np.ndarray  # int [subject], 1 autism, 0 control
  sites: np.ndarray  # str [subject]
  ids: tuple[str, ...]  # FILE_ID
  notes: list[str]  # what was missing or odd


def read_abide(
  root: str | os.PathLike[str],
  *,
  modalities: Sequence[str] = MODALITIES,
  features: Sequence[str] = FEATURES,
  allow_site: bool = False,
  quality_checked: bool = True,
  subjects: Sequence[str] | None = None,
) -> AbideTables:
  """Reads the files of ABIDE anywhere below a folder.

  Args:
    root: holds `Phenotypic_V1_0b_preprocessed1.csv`, time series
      `FILE_ID_rois_ho.1D`, and FreeSurfer's `*.aparc_table_*.tsv` and
      `aseg_table.tsv`, each kind in any folder.
    modalities: some of `MODALITIES`.
    features: columns of the phenotype file; those that would give away the
      diagnosis are refused.
    allow_site: whether columns that tell the site may be among them.
    quality_checked: whether to leave out subjects whose scan one of the raters
      calls a failure.
    subjects: the FILE_IDs to read, in this order, instead of that selection.

  Returns:
    The tables. A subject without the file of a modality stays, with NaN in
    its row and false in `where`.

  Raises:
    FileNotFoundError: if there is no file of a kind.
    ValueError: if a file is not of its form, several files claim one subject,
      or a feature is refused.
  """
  root = pathlib.Path(root)
  unknown = [name for name in modalities if name not in MODALITIES]
  if unknown or not modalities or len(set(modalities)) != len(modalities):
    raise ValueError(
      f"expected different modalities among {list(MODALITIES)}, got "
      f"{list(modalities)}"
    )
  people = read_phenotype(_only_file(root, _PHENOTYPE_FILE))
  chosen = _choose(people.ids, people.rows, quality_checked, subjects)
  ids = [people.ids[i] for i in chosen]
  tables: dict[str, FeatureTable] = {}
  for modality in modalities:
    if modality == "connectivity":
      tables[modality] = connectivity_table(root, ids)
    elif modality == "structure":
      tables[modality] = structure_table(root, ids)
    else:
      rows = [people.rows[i] for i in chosen]
      tables[modality] = feature_table(rows, features, allow_site=allow_site)
  where = np.stack([table.where for table in tables.values()], axis=1)
  labels = people.labels[chosen]
  sites = np.asarray([people.sites[i] for i in chosen])
  notes = _summary(labels, sites, quality_checked and subjects is None)
  notes += [note for table in tables.values() for note in table.notes]
  return AbideTables(
    {name: table.values for name, table in tables.items()},
    {name: table.columns for name, table in tables.items()},
    {name: table.scaled for name, table in tables.items()},
    where,
    labels,
    sites,
    tuple(ids),
    notes,
  )


def _choose(
  ids: list[str],
  rows: list[dict[str, str]],
  quality_checked: bool,
  subjects: Sequence[str] | None,
) -> list[int]:
  """Returns which rows of the phenotype file to keep."""
  if subjects is not None:
    index = {item: row for row, item in enumerate(ids)}
    absent = [item for item in subjects if item not in index]
    if absent or not subjects or len(set(subjects)) != len(subjects):
      raise ValueError(
        "expected different FILE_IDs of the phenotype file as subjects=, got "
        f"{absent[:5] or list(subjects[:5])}"
      )
    return [index[item] for item in subjects]
  chosen = [
    row
    for row in range(len(rows))
    if not quality_checked or passes_quality_check(rows[row])
  ]
  if not chosen:
    raise ValueError("no subject of the phenotype file passes the selection")
  return chosen


def _only_file(root: pathlib.Path, name: str) -> pathlib.Path:
  paths = sorted(root.rglob(name))
  if not paths:
    raise FileNotFoundError(f"expected {name} below {root}")
  if len(paths) > 1:
    raise ValueError(
      f"expected one {name} below {root}, got {list(map(str, paths))}"
    )
  return paths[0]


def _summary(
  labels: np.ndarray, sites: np.ndarray, is_usual: bool
) -> list[str]:
  notes = [
    f"{len(labels):,} subjects of {len(set(sites.tolist()))} sites, "
    f"{np.count_nonzero(labels):,} with autism, "
    f"{np.count_nonzero(labels == 0):,} controls"
  ]
  if is_usual and len(labels) != NUM_USUAL:
    notes.append(
      f"{len(labels):,} subjects where the usual selection has {NUM_USUAL}"
    )
  return notes
