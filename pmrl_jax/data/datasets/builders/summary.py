"""What a prepared data set holds, and what of it is missing."""

from __future__ import annotations

import json
import os
import pathlib
from typing import NamedTuple

import tensorflow_datasets as tfds


class Summary(NamedTuple):
  """The content of a prepared folder, by split."""

  num_examples: dict[str, int]
  present: dict[
    str, dict[str, int]
  ]  # {split: {modality: records that have it}}
  notes: dict[str, list[str]]  # what was read, what is missing, what was odd
  num_bad: int  # records of which something could not be read


def summarise(folder: str | os.PathLike[str]) -> Summary:
  """Reads what the builder of a data set counted.

  Args:
    folder: what `prepare` returned.

  Returns:
    The numbers; nothing but `num_examples` of data sets that ship.
  """
  info = tfds.builder_from_directory(folder).info
  metadata = dict(info.metadata or {})
  bad = pathlib.Path(folder) / "bad_examples.jsonl"
  lines = bad.read_text("utf-8").splitlines() if bad.is_file() else []
  return Summary(
    {split: facts.num_examples for split, facts in info.splits.items()},
    metadata.get("present", {}),
    metadata.get("notes", {}),
    len({json.loads(line)["name"] for line in lines}),
  )
