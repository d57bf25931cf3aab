"""Any prepared TFDS data set as rows, read without TensorFlow.

The data set is read by `tfds.data_source`, at random access from ArrayRecord
files, and every feature that is a modality is decoded when it is needed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
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
    features: Mapping[str, str] | None = None,
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
        written "clip/frames". By default the modalities of a data set in
        manifest form, such as `manifest.build` writes.
      kinds: {modality: kind}, for features that do not say what they are, and
        are not in manifest form.
      ids: the feature that names a record; by default its place, "train/17".
      label: the feature that holds the class, an integer.
      source: the feature that says what a record was cut from. These three
        are known of a data set in manifest form.
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
    described = builder.info.features
    own_kinds = _manifest_kinds(builder.info)
    if features is None:
      if not own_kinds:
        raise ValueError(
          f"{data_set} does not say which features are modalities; name them, "
          f"as {{modality: feature}}; there are {list(described)}"
        )
      features = {modality: modality for modality in own_kinds}
    if own_kinds:
      ids, label, source = ids or "id", label or "label", source or "source"
    for name in filter(None, (*features.values(), ids, label, source)):
      _feature(described, name)
    self._features = dict(features)
    self._described = {
      modality: _feature(described, name) for modality, name in features.items()
    }
    known = {
      modality: own_kinds.get(name.removesuffix("/frames"))
      for modality, name in features.items()
    }
    self.kinds = {
      modality: (kinds or {}).get(modality)
      or known[modality]
      or kind_of(modality, feature)
      for modality, feature in self._described.items()
    }
    for modality, kind in self.kinds.items():
      if kind not in KINDS:
        raise ValueError(
          f"expected one of {KINDS} as the kind of {modality!r}, got {kind!r}"
        )
    # Images are decoded when they are asked for, and only then.
    images = {
      name
      for name, feature in described.items()
      if isinstance(feature, tfds.features.Image)
    }
    read = functools.partial(_data_source, builder, split, data_set)
    self._records = read(encoded=images - set(features.values()))
    columns = self._look_through(read(encoded=images), ids, label, source)
    self.ids: Sequence[str] = (
      [f"{split}/{index}" for index in range(len(self._records))]
      if ids is None
      else [_text(value) for value in columns[ids]]
    )
    self.labels = None if label is None else np.asarray(columns[label])
    self.sources = (
      None if source is None else [_text(value) for value in columns[source]]
    )

  def _look_through(self, records: Any, *names: str | None) -> dict[str, list]:
    """Reads all records once; returns the columns of these features."""
    columns: dict[str, list] = {name: [] for name in names if name is not None}
    # Texts are small, and to read one later is to read its whole record.
    self._texts: dict[str, list] = {
      modality: [] for modality, kind in self.kinds.items() if kind == "text"
    }
    present = []
    for index in range(len(records)):
      record = records[index]
      for name, column in columns.items():
        column.append(_part(record, name))
      values = {name: self._read(record, name) for name in self.kinds}
      for modality, texts in self._texts.items():
        texts.append(values[modality])
      present.append([value is not None for value in values.values()])
    self.where = np.asarray(present, bool).reshape(-1, len(self.kinds))
    return columns

  def value(self, row: int, modality: str) -> Any:
    """Returns encoded bytes, an array, a list of frames, or texts."""
    if modality in self._texts:
      return self._texts[modality][row]
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
    if isinstance(value, Mapping):  # a video, with the times of its frames
      value = value.get("frames", value)
    is_empty = not value if isinstance(value, bytes) else not np.size(value)
    return None if is_empty else value


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


def _manifest_kinds(info: Any) -> dict[str, str]:
  """Returns the modalities and kinds that `manifest.build` notes, or none."""
  kinds = dict(info.metadata or {}).get("kinds", {})
  is_ours = {"id", "label", "source", *kinds} <= set(info.features)
  return dict(kinds) if is_ours else {}


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


def _data_source(
  builder: Any, split: str, data_set: Any, *, encoded: Iterable[str]
) -> Any:
  """The records; the values of some features stay as they are stored."""
  decoders = {name: tfds.decode.SkipDecoding() for name in encoded}
  try:
    return builder.as_data_source(split, decoders=decoders or None)
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
