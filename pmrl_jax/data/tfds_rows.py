"""Any prepared TFDS data set as rows, read without TensorFlow.

The data set is read by `tfds.data_source`, at random access from ArrayRecord
files, and every feature that is a modality is decoded when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from pmrl_jax.data.records import find_prepared

KINDS = ("video", "audio", "image", "array", "vector", "text")


class TfdsRows:
  """The records of one split as the rows of a `RowSource`.

  Attributes:
    kinds: {modality: kind}, see `kind_of`.
    ids: the name of each record.
    where: bool `[row, modality]`, false where a value is empty.
    labels: int `[row]`, or None.
    sources: what each record was cut from, or None.
  """

  def __init__(
    self,
    data_set: str | os.PathLike[str],
    split: str,
    *,
    features: Mapping[str, str],
    kinds: Mapping[str, str] | None = None,
    ids: str | None = None,
    label: str | None = None,
    source: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
  ):
    """Opens the data set and reads the small features of all its records.

    Args:
      data_set: the folder of a prepared data set, or its name as in
        `tfds.builder` ("mnist", "ag_news_subset:1.0.0").
      split: one of its splits; slices as "train[:80%]" work too.
      features: {modality: name of the feature}; parts of nested features are
        written "clip/frames".
      kinds: {modality: kind}, for features that do not say what they are.
      ids: the feature that names a record; by default its place, "train/17".
      label: the feature that holds the class, an integer.
      source: the feature that says what a record was cut from.
      data_dir: where TFDS keeps named data sets.

    Raises:
      FileNotFoundError: if the data set has not been prepared.
      ValueError: if a split or feature does not exist, or has no known kind.
    """
    builder = _open(data_set, data_dir)
    splits = sorted(builder.info.splits)
    if split.split("[")[0] not in splits:
      raise ValueError(
        f"expected one of the splits {splits} of {data_set}, got {split!r}"
      )
    self._features = dict(features)
    for name in filter(None, (*features.values(), ids, label, source)):
      _feature(builder.info.features, name)
    given = kinds or {}
    self._described = {
      modality: _feature(builder.info.features, name)
      for modality, name in features.items()
    }
    self.kinds = {
      modality: given.get(modality) or kind_of(modality, feature)
      for modality, feature in self._described.items()
    }
    for modality, kind in self.kinds.items():
      if kind not in KINDS:
        raise ValueError(
          f"expected one of {KINDS} as the kind of {modality!r}, got {kind!r}"
        )
    self._records = _data_source(builder, split, data_set)
    columns: dict[str, list] = {
      name: [] for name in (ids, label, source) if name is not None
    }
    present = []
    for index in range(len(self._records)):
      record = self._records[index]
      for name, column in columns.items():
        column.append(_part(record, name))
      present.append([self._read(record, m) is not None for m in features])
    self.where = np.asarray(present, bool).reshape(-1, len(features))
    self.ids: Sequence[str] = (
      [f"{split}/{index}" for index in range(len(self._records))]
      if ids is None
      else [_text(value) for value in columns[ids]]
    )
    self.labels = None if label is None else np.asarray(columns[label])
    self.sources = (
      None if source is None else [_text(value) for value in columns[source]]
    )

  def value(self, row: int, modality: str) -> Any:
    """Returns encoded bytes, an array, a list of frames, or texts."""
    return self._read(self._records[row], modality)

  def _read(self, record: Mapping[str, Any], modality: str) -> Any:
    value = _part(record, self._features[modality])
    kind = self.kinds[modality]
    if kind == "text":
      feature = self._described[modality]
      if isinstance(feature, tfds.features.ClassLabel):
        return [feature.int2str(int(value))] if value >= 0 else None
      values = [value] if isinstance(value, bytes | str) else list(value)
      texts = [text for text in map(_text, values) if text.strip()]
      return texts or None
    if isinstance(value, Mapping):  # a sequence of features, by feature
      value = value.get("frames", value)
    return value if np.size(value) and len(np.shape(value) or [1]) else None


def kind_of(modality: str, feature: Any) -> str:
  """Returns what the values of a TFDS feature are.

  Args:
    modality: for the error.
    feature: a feature connector.

  Raises:
    ValueError: if it does not say, as encoded bytes do not.
  """
  inner = getattr(feature, "feature", None)  # of a sequence
  if isinstance(feature, tfds.features.Text | tfds.features.ClassLabel):
    return "text"
  if isinstance(inner, tfds.features.Text):
    return "text"
  if isinstance(feature, tfds.features.Image):
    return "image"
  if isinstance(inner, tfds.features.Image):  # Video is such a sequence
    return "video"
  if type(feature).__name__ == "Audio":
    return "audio"
  dtype = getattr(feature, "np_dtype", None)
  if isinstance(dtype, type | np.dtype) and np.dtype(dtype).kind in "fiub":
    return "vector" if len(feature.shape) <= 1 else "array"
  raise ValueError(
    f"the feature of {modality!r} does not say what it is ({feature}); give "
    f"its kind, one of {KINDS}"
  )


def _open(
  data_set: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None
) -> Any:
  if os.path.isdir(data_set) or data_dir is None:
    try:
      return tfds.builder_from_directory(find_prepared(data_set))
    except FileNotFoundError as error:
      problem = str(error)
  else:
    problem = f"{os.fspath(data_set)!r} is no folder"
  try:
    # What has been prepared under its name is read without its code.
    return tfds.core.load.read_only_builder.builder_from_files(
      os.fspath(data_set), data_dir=data_dir
    )
  except Exception as error:  # TFDS raises its own types, not exported
    raise FileNotFoundError(
      f"{problem}; and TFDS finds no prepared data set of that name in "
      f"{data_dir or 'its default folder'} ({type(error).__name__}). Prepare "
      f"it once: tfds build {os.fspath(data_set)} --file_format=array_record"
    ) from None


def _data_source(builder: Any, split: str, data_set: Any) -> Any:
  try:
    return builder.as_data_source(split)
  except NotImplementedError as error:
    raise ValueError(
      f"{data_set} has no random access: {error}. Prepare it with "
      "--file_format=array_record"
    ) from None


def _text(value: Any) -> str:
  return value.decode() if isinstance(value, bytes) else str(value)


def _feature(features: Any, name: str) -> Any:
  for part in name.split("/"):
    if not hasattr(features, "keys") or part not in features:
      known = list(features) if hasattr(features, "keys") else features
      raise ValueError(f"there is no feature {name!r}; there are {known}")
    features = features[part]
  return features


def _part(record: Any, name: str) -> Any:
  for part in name.split("/"):
    record = record[part]
  return record
