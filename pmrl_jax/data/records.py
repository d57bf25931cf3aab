"""Prepared TFDS data sets -> columns in memory, without TensorFlow."""

from __future__ import annotations

import os
import pathlib
import re

import numpy as np
import tensorflow_datasets as tfds

SHIPPED = pathlib.Path(__file__).parent / "datasets" / "prepared"


def read_records(
  data_set: str | os.PathLike[str], split: str
) -> dict[str, np.ndarray]:
  """Reads every record of one split of a prepared data set.

  Small sets are decoded once and kept: training reads each item many times.

  Args:
    data_set: the folder of a prepared TFDS data set (ArrayRecord files beside
      `dataset_info.json`, or a folder that holds such versions), or the name
      of one that ships with the package, as "multimodal_digits/image".
    split: one of its splits; TFDS's slices as "train[:80%]" work too.

  Returns:
    Each feature's column: numbers are stacked into `[records, ...]`; texts
    (str), other byte strings (bytes) and arrays of varying shape are
    `[records]` of dtype object.

  Raises:
    FileNotFoundError: if there is no such folder or data set.
    ValueError: if the split is unknown or empty.
  """
  folder = find_prepared(data_set)
  builder = tfds.builder_from_directory(folder)
  splits = sorted(builder.info.splits)
  if split.split("[")[0] not in splits:
    raise ValueError(
      f"expected one of the splits {splits} of {data_set}, got {split!r}"
    )
  num_records = builder.info.splits[split].num_examples
  if not num_records:
    raise ValueError(f"the split {split!r} of {data_set} is empty")
  source = builder.as_data_source(split)
  records = source.__getitems__(list(range(num_records)))
  features = builder.info.features
  return {
    name: _column(
      [record[name] for record in records],
      is_text=isinstance(features[name], tfds.features.Text),
    )
    for name in features
  }


def find_prepared(data_set: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the versioned folder of a prepared data set.

  Args:
    data_set: a folder or the name of a shipped data set, see `read_records`.

  Returns:
    The folder that holds `dataset_info.json`; the newest if there are several
    versions.

  Raises:
    FileNotFoundError: if there is no such folder or data set.
  """
  for folder in (pathlib.Path(data_set), SHIPPED / data_set):
    if (folder / "dataset_info.json").is_file():
      return folder
    versions = {
      tuple(map(int, path.parent.name.split("."))): path.parent
      for path in folder.glob("*/dataset_info.json")
      if re.fullmatch(r"\d+\.\d+\.\d+", path.parent.name)
    }
    if versions:
      return versions[max(versions)]
  shipped = sorted(
    path.parent.parent.relative_to(SHIPPED).as_posix()
    for path in SHIPPED.rglob("dataset_info.json")
  )
  raise FileNotFoundError(
    f"{os.fspath(data_set)!r} is neither a folder with a prepared TFDS data "
    "set (a dataset_info.json in it, or in its folder of the newest version) "
    f"nor the name of one that ships with the package: {shipped}"
  )


def _column(values: list, *, is_text: bool) -> np.ndarray:
  is_stacked = not isinstance(values[0], bytes)
  if is_stacked and len({np.shape(value) for value in values}) == 1:
    return np.stack(values)
  column = np.empty(len(values), object)
  for record, value in enumerate(values):
    column[record] = value.decode() if is_text else value
  return column
