"""One shard of a data set: the same rows always give the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, NamedTuple

from array_record.python import array_record_module

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.manifest.encoding import Encoding
from pmrl_jax.data.manifest.features import (
  Shape,
  example_of,
  features_of,
  serialize,
)
from pmrl_jax.data.manifest.manifest import Manifest

JOURNAL = ".building"  # the folder of what is done, while it is not all


class Work(NamedTuple):
  """What writing a shard takes, the same for all of them."""

  manifest: Manifest
  output: pathlib.Path
  name: str  # of the data set
  encoding: Encoding
  array_shapes: Mapping[str, Shape]


class Shard(NamedTuple):
  """Some rows of one split."""

  split: str
  number: int  # from 0
  num_shards: int  # of the split
  rows: list[int]

  def file_name(self, name: str) -> str:
    """The name that TFDS looks for."""
    which = f"{self.number:05d}-of-{self.num_shards:05d}"
    return f"{name}-{self.split}.array_record-{which}"


class WrittenShard(NamedTuple):
  """A shard that is done."""

  file: str  # its name in the folder
  split: str
  number: int  # from 0
  num_examples: int
  num_bytes: int  # of the examples
  sha256: str  # of the file
  failures: list[Failure]  # modalities that could not be read, and are absent


def write_shard(work: Work, shard: Shard) -> WrittenShard:
  """Writes a shard, then notes in the journal that it is done.

  Killed at any moment, it leaves a whole shard, or none.

  Args:
    work: what to write, and where.
    shard: which rows.

  Returns:
    What was written.
  """
  features = features_of(work.manifest.kinds, array_shapes=work.array_shapes)
  file = shard.file_name(work.name)
  journal = work.output / JOURNAL
  temporary = journal / f"{file}.{uuid.uuid4().hex}.tmp"
  failures, num_bytes = [], 0
  # As TFDS itself writes them: each record can be read alone.
  writer = array_record_module.ArrayRecordWriter(
    os.fspath(temporary), "group_size:1"
  )
  try:
    for row in shard.rows:
      broken: dict[str, str] = {}
      example = example_of(work.manifest, row, work.encoding, broken=broken)
      record = serialize(features, example)
      writer.write(record)
      num_bytes += len(record)
      failures += [Failure(example["id"], *item) for item in broken.items()]
  finally:
    writer.close()
  written = WrittenShard(
    file=file,
    split=shard.split,
    number=shard.number,
    num_examples=len(shard.rows),
    num_bytes=num_bytes,
    sha256=hash_file(temporary),
    failures=failures,
  )
  temporary.replace(work.output / file)
  write_json(journal / f"{file}.json", written._asdict())
  return written


def read_journal(output: pathlib.Path) -> dict[str, WrittenShard]:
  """Returns the shards that are done, {file name: shard}."""
  written = {}
  for path in sorted((output / JOURNAL).glob("*.array_record-*.json")):
    shard = WrittenShard(**json.loads(path.read_text("utf-8")))
    if (output / shard.file).is_file():
      failures = [Failure(*failure) for failure in shard.failures]
      written[shard.file] = shard._replace(failures=failures)
  return written


def hash_file(path: pathlib.Path) -> str:
  """Returns the SHA-256 of a file, as hexadecimal digits."""
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: pathlib.Path, content: Any) -> None:
  """Writes a file all at once, or not at all."""
  temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
  text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
  temporary.write_text(text, encoding="utf-8")
  temporary.replace(path)
