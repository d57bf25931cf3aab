"""Who trains and who is tested, and the sources that follow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pmrl_jax.data import tabular
from pmrl_jax.data.datasets.abide.phenotype import FEATURES
from pmrl_jax.data.datasets.abide.tables import (
  MODALITIES,
  AbideTables,
  read_abide,
)
from pmrl_jax.data.sources import ArraySource

NUM_FOLDS = 10


class Split(NamedTuple):
  """Rows of the tables."""

  train: np.ndarray  # int [row], ascending
  test: np.ndarray  # int [row], ascending


def leave_site_out_splits(
  sites: Sequence[str] | np.ndarray,
) -> dict[str, Split]:
  """Tests on each site what was trained on all others.

  Args:
    sites: `[subject]`.

  Returns:
    The split of every site, by name.

  Raises:
    ValueError: if there is only one site.
  """
  sites = np.asarray(sites)
  names = sorted(set(sites.tolist()))
  if len(names) < 2:
    raise ValueError(f"expected at least two sites, got {names}")
  return {
    name: Split(np.flatnonzero(sites != name), np.flatnonzero(sites == name))
    for name in names
  }


def ten_fold_splits(labels: np.ndarray, *, seed: int) -> list[Split]:
  """Ten folds in which the classes are as frequent as in the whole.

  Args:
    labels: int `[subject]`.
    seed: of the shuffle, not negative.

  Returns:
    Ten splits; every subject is tested in exactly one, and the folds differ by
    at most one subject of each class and in all.

  Raises:
    ValueError: if a class has fewer than ten subjects.
  """
  labels = np.asarray(labels)
  classes, counts = np.unique(labels, return_counts=True)
  if not len(labels) or counts.min() < NUM_FOLDS:
    raise ValueError(
      f"expected at least {NUM_FOLDS} subjects of each class, got "
      f"{dict(zip(classes.tolist(), counts.tolist()))}"
    )
  rng = np.random.default_rng(seed)
  order = np.concatenate(
    [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
  )
  # Dealt out like cards, one class after the other.
  folds = np.empty(len(labels), int)
  folds[order] = np.arange(len(labels)) % NUM_FOLDS
  return [
    Split(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold))
    for fold in range(NUM_FOLDS)
  ]


def split_sources(
  tables: AbideTables, split: Split
) -> tuple[ArraySource, ArraySource]:
  """Returns the training and the test source of one split.

  Quantities are standardised by mean and deviation of the training rows that
  have them; what is missing becomes the training mean, which is 0, and so does
  a column that does not vary among them. Columns of 0 and 1 stay as they are.

  Args:
    tables: of all subjects.
    split: rows of the tables.

  Returns:
    The sources; their ids are rows of the tables.
  """
  arrays, notes = {}, list(tables.notes)
  for column, (modality, values) in enumerate(tables.arrays.items()):
    train = split.train[tables.where[split.train, column]]
    if not len(train):
      raise ValueError(f"no training subject has the modality {modality!r}")
    arrays[modality], num_flat = _standardised(
      values, values[train], tables.scaled[modality]
    )
    if num_flat:
      notes.append(
        f"{modality}: {num_flat:,} columns do not vary among the training "
        "subjects and are 0"
      )
  train_source, test_source = (
    ArraySource(
      {modality: values[rows] for modality, values in arrays.items()},
      where=tables.where[rows],
      ids=rows,
      labels=tables.labels[rows],
      notes=notes,
    )
    for rows in split
  )
  return train_source, test_source


def abide(
  root: str | os.PathLike[str],
  *,
  fold: int | str,
  seed: int = 0,
  modalities: Sequence[str] = MODALITIES,
  features: Sequence[str] = FEATURES,
  allow_site: bool = False,
  quality_checked: bool = True,
  subjects: Sequence[str] | None = None,
) -> tuple[ArraySource, ArraySource]:
  """One split of ABIDE as training and test source.

  Args:
    root: see `read_abide`, as are the arguments not named here.
    fold: 0 to 9 for one of `ten_fold_splits`, or the name of a site for one of
      `leave_site_out_splits`.
    seed: of the ten folds.
    modalities: some of `MODALITIES`.
    features: columns of the phenotype file.
    allow_site: whether columns that tell the site may be among them.
    quality_checked: whether to leave out scans that a rater failed.
    subjects: the FILE_IDs to read instead of that selection.

  Returns:
    The sources, with the classes 1 (autism) and 0 (control).

  Raises:
    FileNotFoundError: if there is no file of a kind.
    ValueError: if there is no such fold, or a file is bad.
  """
  tables = read_abide(
    root,
    modalities=modalities,
    features=features,
    allow_site=allow_site,
    quality_checked=quality_checked,
    subjects=subjects,
  )
  return split_sources(tables, choose_split(tables, fold=fold, seed=seed))


def choose_split(
  tables: AbideTables, *, fold: int | str, seed: int = 0
) -> Split:
  """Returns one of the splits.

  Args:
    tables: of all subjects.
    fold: see `abide`.
    seed: of the ten folds.

  Raises:
    ValueError: if there is no such fold.
  """
  if isinstance(fold, str):
    sites = leave_site_out_splits(tables.sites)
    if fold not in sites:
      raise ValueError(f"expected one of the sites {list(sites)}, got {fold!r}")
    return sites[fold]
  if not 0 <= fold < NUM_FOLDS:
    raise ValueError(
      f"expected a fold from 0 to {NUM_FOLDS - 1} or the name of a site, got "
      f"{fold}"
    )
  return ten_fold_splits(tables.labels, seed=seed)[fold]


def _standardised(
  values: np.ndarray, train: np.ndarray, scaled: np.ndarray
) -> tuple[np.ndarray, int]:
  """Returns the values by the statistics of the training rows.

  Args:
    values: `[subject, column]`, NaN where missing.
    train: the training rows of it.
    scaled: bool `[column]`, which columns to standardise.

  Returns:
    float32 `[subject, column]` without NaN, and how many columns are flat.
  """
  known = np.isfinite(train)
  counts = np.maximum(known.sum(axis=0), 1)
  mean = np.where(known, train, 0).sum(axis=0, dtype=np.float64) / counts
  centred = np.where(known, train - mean, 0)
  std = np.sqrt((centred**2).sum(axis=0) / counts)
  # Exactly flat, but for rounding: largest and smallest known value agree.
  top = np.where(known, train, -np.inf).max(axis=0)
  flat = top <= np.where(known, train, np.inf).min(axis=0)
  # Division by infinity makes a flat column 0, in the test rows as well.
  statistics = tabular.Statistics(
    np.where(scaled, mean, 0),
    np.where(scaled, np.where(flat, np.inf, std), 1),
  )
  standardised = tabular.standardise(values, statistics)
  result = np.where(np.isfinite(standardised), standardised, 0)
  return result.astype(np.float32), int(np.count_nonzero(flat & scaled))
