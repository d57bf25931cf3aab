"""The phenotype file -> features that do not give the diagnosis away."""

from __future__ import annotations

import csv
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pmrl_jax.data.datasets.abide.features import (
  FeatureTable,
  is_missing,
  number,
)

FEATURES = (
  *("AGE_AT_SCAN", "SEX", "HANDEDNESS_CATEGORY"),
  *("FIQ", "VIQ", "PIQ", "EYE_STATUS_AT_SCAN"),
)
MAX_LEVELS = 30
RATINGS = (
  *("qc_rater_1", "qc_anat_rater_2", "qc_func_rater_2"),
  *("qc_anat_rater_3", "qc_func_rater_3"),
)
NO_FILE = "no_filename"

# How columns that are no features begin, and why.
_QUESTIONNAIRE = "it measures how autistic a person is, mostly of patients only"
_CONSEQUENCE = "it follows from the diagnosis"
_SCAN = "it says how good the scan is, thus where it was made, not whose it is"
_IDENTIFIER = "it numbers the subjects, at many sites in blocks by diagnosis"
REFUSED: Mapping[str, str] = {
  "DX_GROUP": "it is the label",
  "DSM_IV_TR": "it is the diagnosis in more detail",
  "ADOS": "it is the interview that the diagnosis rests on",
  "ADI": "it is the interview that the diagnosis rests on",
  "SRS": _QUESTIONNAIRE,
  "SCQ": _QUESTIONNAIRE,
  "AQ_": _QUESTIONNAIRE,
  "VINELAND": _QUESTIONNAIRE,
  "COMORBIDITY": _CONSEQUENCE,
  "CURRENT_MED": _CONSEQUENCE,
  "MEDICATION": _CONSEQUENCE,
  "OFF_STIMULANTS": _CONSEQUENCE,
  "SUB_IN_SMP": "it tells whom an earlier study of both groups chose",
  "SUB_ID": _IDENTIFIER,
  "SUBJECT": _IDENTIFIER,
  "FILE_ID": _IDENTIFIER,
  "UNNAMED": _IDENTIFIER,
  "QC_": _SCAN,
  "ANAT_": _SCAN,
  "FUNC_": _SCAN,
}
# What tells the site, to be asked for.
SITES = ("SITE_ID", "FIQ_TEST_TYPE", "VIQ_TEST_TYPE", "PIQ_TEST_TYPE")
# Numbers or letters that stand for kinds.
CATEGORIES = ("SEX", "HANDEDNESS_CATEGORY", "EYE_STATUS_AT_SCAN", *SITES)


class Phenotype(NamedTuple):
  """What the file says of its subjects, in the file's order."""

  ids: list[str]  # FILE_ID
  labels: np.ndarray  # int [subject], 1 autism, 0 control
  sites: list[str]
  rows: list[dict[str, str]]  # every column as text


def read_phenotype(path: str | os.PathLike[str]) -> Phenotype:
  """Reads `Phenotypic_V1_0b_preprocessed1.csv`; leaves out who has no scan.

  Raises:
    ValueError: if a column is missing, a diagnosis is neither 1 (autism) nor 2
      (control), or a subject occurs twice.
  """
  path = pathlib.Path(path)
  # Free text in columns that are not read is not always UTF-8.
  with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
    rows = list(csv.DictReader(file, restval=""))
  needed = ("FILE_ID", "SITE_ID", "DX_GROUP")
  absent = [name for name in needed if not rows or name not in rows[0]]
  if absent:
    raise ValueError(
      f"expected the columns {list(needed)} in {path}, without {absent}; it is "
      "a CSV file with a header"
    )
  rows = [row for row in rows if row["FILE_ID"] not in (NO_FILE, "")]
  ids = [row["FILE_ID"] for row in rows]
  twice = sorted({item for item in ids if ids.count(item) > 1})
  if twice:
    raise ValueError(f"{path} has several rows for {twice[:5]}")
  groups = [number(row["DX_GROUP"]) for row in rows]
  unknown = [i for i, group in enumerate(groups) if group not in (1, 2)]
  if unknown:
    row = rows[unknown[0]]
    raise ValueError(
      f"expected DX_GROUP 1 (autism) or 2 (control) in {path}, got "
      f"{row['DX_GROUP']!r} for {row['FILE_ID']!r}"
    )
  labels = np.asarray([int(group == 1) for group in groups])
  return Phenotype(ids, labels, [row["SITE_ID"] for row in rows], rows)


def passes_quality_check(row: Mapping[str, str]) -> bool:
  """Whether no rater of the scans said "fail", the usual selection."""
  absent = [name for name in RATINGS if name not in row]
  if absent:
    raise ValueError(
      f"expected the raters' columns {list(RATINGS)} in the phenotype file, "
      f"without {absent}; pass quality_checked=False to take all subjects"
    )
  return all(row[name].strip().lower() != "fail" for name in RATINGS)


def feature_table(
  rows: Sequence[Mapping[str, str]],
  features: Sequence[str],
  *,
  allow_site: bool = False,
) -> FeatureTable:
  """Turns columns of the phenotype file into numbers.

  A quantity becomes a column, NaN where it is missing (-9999 or empty), and a
  category a column of 0 and 1 per level. Behind each of them, `NAME missing`
  is 1 where it is missing.

  Args:
    rows: what the file says of the subjects.
    features: names of columns.
    allow_site: whether what tells the site (`SITES`) may be one of them.

  Returns:
    The numbers.

  Raises:
    ValueError: if a column does not exist, would leak the diagnosis, or is
      neither of numbers nor of a few levels.
  """
  if not features:
    raise ValueError("expected at least one column of the phenotype, got none")
  columns: list[tuple[str, list[float], bool]] = []
  notes = []
  where = np.zeros(len(rows), bool)
  for feature in features:
    _check_feature(feature, rows[0], allow_site)
    cells = [row[feature].strip() for row in rows]
    missing = [is_missing(cell) for cell in cells]
    where |= ~np.asarray(missing)
    columns += _columns(feature, cells, missing)
    columns.append((f"{feature} missing", list(map(float, missing)), False))
    if any(missing):
      notes.append(
        f"phenotype: {feature} is missing for {sum(missing):,} of "
        f"{len(rows):,} subjects"
      )
  names, values, scaled = zip(*columns)
  return FeatureTable(
    np.asarray(values, np.float32).T, names, np.asarray(scaled), where, notes
  )


def _check_feature(
  feature: str, row: Mapping[str, str], allow_site: bool
) -> None:
  name = feature.upper()
  reason = next(
    (why for start, why in REFUSED.items() if name.startswith(start)), None
  )
  if name == "X":
    reason = _IDENTIFIER
  if name in SITES and not allow_site:
    reason = (
      "it tells the site, and sites differ in their scanners and in how many "
      "patients they scanned; pass allow_site=True if that is wanted"
    )
  if reason is not None:
    raise ValueError(f"{feature!r} cannot be a feature: {reason}")
  if feature not in row:
    raise ValueError(
      f"expected columns of the phenotype file such as {list(FEATURES)}, got "
      f"{feature!r}"
    )


def _columns(
  feature: str, cells: Sequence[str], missing: Sequence[bool]
) -> list[tuple[str, list[float], bool]]:
  """Returns `(name, values, is a quantity)` for one feature."""
  if feature not in CATEGORIES:
    values = [
      np.nan if gone else number(cell) for cell, gone in zip(cells, missing)
    ]
    if None not in values:
      return [(feature, [float(v) for v in values if v is not None], True)]
  # "1" and "1.0" are one level.
  levels = ["" if gone else _level(cell) for cell, gone in zip(cells, missing)]
  kinds = sorted(set(levels) - {""})
  if len(kinds) > MAX_LEVELS:
    raise ValueError(
      f"{feature!r} cannot be a feature: expected numbers or at most "
      f"{MAX_LEVELS} levels, got {len(kinds)}, such as {kinds[:3]}"
    )
  return [
    (f"{feature}={kind}", [float(level == kind) for level in levels], False)
    for kind in kinds
  ]


def _level(cell: str) -> str:
  value = number(cell)
  return cell if value is None else f"{value:g}"
