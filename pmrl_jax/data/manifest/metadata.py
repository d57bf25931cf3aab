"""The files of a TFDS data set beside its shards, and looking them through."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow_datasets as tfds
from array_record.python import array_record_data_source

from pmrl_jax.data.manifest.features import features_of
from pmrl_jax.data.manifest.shards import (
  JOURNAL,
  Work,
  WrittenShard,
  hash_file,
  write_json,
)

CHECKSUMS = "checksums.json"


def write_metadata(work: Work, written: Sequence[WrittenShard]) -> None:
  """Writes what TFDS needs to read the shards, and the checksums of all.

  Args:
    work: what was written, and where.
    written: the shards, in order.
  """
  template = tfds.core.ShardedFileTemplate(
    data_dir=work.output,
    dataset_name=work.name,
    filetype_suffix="array_record",
  )
  shards: dict[str, list[WrittenShard]] = {}
  for shard in written:
    shards.setdefault(shard.split, []).append(shard)
  info = tfds.core.DatasetInfo(
    builder=tfds.core.dataset_info.DatasetIdentity(
      name=work.name,
      version=tfds.core.Version("1.0.0"),
      data_dir=os.fspath(work.output),
      module_name="",
    ),
    features=features_of(work.manifest.kinds, array_shapes=work.array_shapes),
    description=_description(work),
    # Encoded bytes do not say what they are; who reads them wants to know.
    metadata=tfds.core.MetadataDict(kinds=dict(work.manifest.kinds)),
    disable_shuffling=True,
  )
  info.set_file_format(tfds.core.FileFormat.ARRAY_RECORD)
  info.set_splits(
    tfds.core.splits.SplitDict(
      [
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[shard.num_examples for shard in of_split],
          num_bytes=sum(shard.num_bytes for shard in of_split),
          filename_template=template.replace(split=split),
        )
        for split, of_split in shards.items()
      ]
    )
  )
  info.write_to_directory(work.output)
  checksums = {shard.file: shard.sha256 for shard in written}
  for file in ("dataset_info.json", "features.json", "metadata.json"):
    checksums[file] = hash_file(work.output / file)
  write_json(work.output / CHECKSUMS, checksums)


def _description(work: Work) -> str:
  kinds = ", ".join(f"{m}: {kind}" for m, kind in work.manifest.kinds.items())
  settings = ", ".join(
    f"{name}={value}"
    for name, value in dataclasses.asdict(work.encoding).items()
  )
  return (
    f"Built from {work.manifest.path.name}. Modalities and their kinds: "
    f"{kinds}. Encoding: {settings}."
  )


def verify(
  folder: str | os.PathLike[str],
  *,
  progress: Callable[[int, int], None] | None = None,
) -> list[str]:
  """Compares the files of a data set that was built with their checksums.

  Args:
    folder: what `build` filled.
    progress: is told how many bytes have been read, of how many.

  Returns:
    A sentence for each file that is missing, damaged, or not part of the set;
    none if all is well.

  Raises:
    FileNotFoundError: if there is no such folder, or no data set in it.
    ValueError: if the data set is not finished, or its list of checksums is
      damaged.
  """
  folder = pathlib.Path(folder)
  if (folder / JOURNAL).is_dir():
    raise ValueError(
      f"{folder} is not finished; the command that began it goes on with it"
    )
  if not (folder / CHECKSUMS).is_file():
    raise FileNotFoundError(
      f"expected a folder that was built from a manifest, but there is no "
      f"{folder / CHECKSUMS}"
    )
  checksums = _read_checksums(folder / CHECKSUMS)
  found = []
  paths = [folder / file for file in checksums]
  total = sum(path.stat().st_size for path in paths if path.is_file())
  num_read = 0
  for path in paths:
    if not path.is_file():
      found.append(f"{path.name} is missing")
      continue
    if hash_file(path) != checksums[path.name]:
      found.append(f"{path.name} has changed since it was built")
    num_read += path.stat().st_size
    if progress is not None:
      progress(num_read, total)
  for path in sorted(folder.glob("*.array_record-*")):
    if path.name not in checksums:
      found.append(f"{path.name} is not part of the data set")
  return found or _check_lengths(folder)


def _read_checksums(path: pathlib.Path) -> dict[str, str]:
  try:
    checksums: Any = json.loads(path.read_text("utf-8"))
  except ValueError as error:
    raise ValueError(f"{path} is damaged: {error}") from None
  if not isinstance(checksums, dict) or any(
    "/" in str(item) for items in checksums.items() for item in items
  ):
    raise ValueError(f"{path} is no list of files and their checksums")
  return checksums


def _check_lengths(folder: pathlib.Path) -> list[str]:
  """Compares how many records the shards have with what TFDS is told."""
  found = []
  builder = tfds.builder_from_directory(folder)
  for split, info in builder.info.splits.items():
    for path, length in zip(info.filepaths, info.shard_lengths):
      source = array_record_data_source.ArrayRecordDataSource([os.fspath(path)])
      if len(source) != length:
        found.append(
          f"{path.name} has {len(source)} records, but {split!r} is said to "
          f"have {length} in it"
        )
  return found
