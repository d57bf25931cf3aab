"""Data sets by name: those that ship with the package, and any prepared one.

`multimodal_digits` and `mfeat` ship as prepared records; `builders` prepares
them from the public raw files. `load_prepared` reads any other TFDS data set.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from pmrl_jax.data import audio, records, tabular, text, vision
from pmrl_jax.data.sources import ArraySource, ClassPairedSource, Table

__all__ = [
  "DIGIT_ALPHABET",
  "MFEAT_VIEWS",
  "load_prepared",
  "mfeat",
  "multimodal_digits",
]

# Every letter of the digits' names in the twelve languages.
DIGIT_ALPHABET = "abcdefghijklmnopqrstuvwxyzäåçéêöüćęıśş"
MFEAT_VIEWS = ("pix", "fou", "fac", "zer", "kar", "mor")
SAMPLE_RATE = 8000  # Hz

_logger = logging.getLogger(__name__)


def multimodal_digits(
  split: str,
  *,
  modalities: Sequence[str] = ("image", "speech", "text"),
  seed: int = 0,
  num_samples: int = SAMPLE_RATE,
  num_characters: int = 12,
  ids: Literal["label", "instance"] = "label",
) -> ClassPairedSource:
  """Digits drawn, spoken and named, paired by class.

  Args:
    split: "train" or "test".
    modalities: some of
      "image" (float32 [8, 8, 1], 0 to 1),
      "speech" (float32 [num_samples], 8 kHz, -1 to 1),
      "text" (int32 [num_characters], ids of `DIGIT_ALPHABET`),
      "pen" (float32 [8, 2], points x, y along the path, -1 to 1).
    seed: the seed of the pairing.
    num_samples: the length of every recording; 20 of the 3,000 are longer
      than one second, which `notes` counts.
    num_characters: the length of every text.
    ids: see `ClassPairedSource`.

  Returns:
    The source.

  Raises:
    ValueError: if a modality or the split is unknown.
  """
  loaders: dict[str, Callable[[], tuple[Table, str]]] = {
    "image": lambda: _images(split),
    "speech": lambda: _speech(split, num_samples),
    "text": lambda: _texts(split, num_characters),
    "pen": lambda: _pen(split),
  }
  unknown = [name for name in modalities if name not in loaders]
  if unknown or not modalities or len(set(modalities)) != len(modalities):
    raise ValueError(
      f"expected different modalities among {list(loaders)}, got "
      f"{list(modalities)}"
    )
  tables, notes = {}, []
  for name in modalities:
    tables[name], note = loaders[name]()
    if note:
      notes.append(f"multimodal_digits, {split}: {note}")
      _logger.info(notes[-1])
  return ClassPairedSource(tables, seed=seed, ids=ids, notes=notes)


def mfeat(split: str, *, views: Sequence[str] = MFEAT_VIEWS) -> ArraySource:
  """Six views of the same handwritten digits (UCI Multiple Features).

  Args:
    split: "train" (1,400 instances) or "test" (600).
    views: some of `MFEAT_VIEWS`.

  Returns:
    The source; every view is float32 and standardised by the mean and the
    deviation of the training split's columns.

  Raises:
    ValueError: if a view or the split is unknown.
  """
  unknown = [view for view in views if view not in MFEAT_VIEWS]
  if unknown or not views:
    raise ValueError(
      f"expected views among {list(MFEAT_VIEWS)}, got {list(views)}"
    )
  train = records.read_records("mfeat", "train")
  columns = train if split == "train" else records.read_records("mfeat", split)
  return ArraySource(
    {
      view: tabular.standardise(
        columns[view], tabular.column_statistics(train[view])
      )
      for view in views
    },
    labels=columns["label"],
  )


def load_prepared(
  data_set: str | os.PathLike[str],
  split: str,
  *,
  modalities: Mapping[str, str],
  label: str | None = "label",
  decode: Mapping[str, Callable[[np.ndarray], np.ndarray]] | None = None,
) -> ArraySource:
  """Any prepared TFDS data set whose records are instances.

  Args:
    data_set: its folder, or the name of a shipped one; see `read_records`.
    split: one of its splits.
    modalities: the feature that each modality is read from.
    label: the feature that holds the class, if there is one.
    decode: what turns a modality's column (see `read_records`) into numbers
      of one shape per item; needed for texts and encoded audio.

  Returns:
    The source.

  Raises:
    FileNotFoundError: if there is no such folder or data set.
    ValueError: if a feature or the split is unknown, or the data is bad.
  """
  columns = records.read_records(data_set, split)
  for feature in [*modalities.values(), *([label] if label else [])]:
    if feature not in columns:
      raise ValueError(
        f"expected features among {sorted(columns)} of {data_set}, got "
        f"{feature!r}"
      )
  decode = decode or {}
  arrays = {
    modality: decode[modality](columns[feature])
    if modality in decode
    else columns[feature]
    for modality, feature in modalities.items()
  }
  return ArraySource(arrays, labels=columns[label] if label else None)


def _images(split: str) -> tuple[Table, str]:
  columns = records.read_records("multimodal_digits/image", split)
  pixels = vision.scale_pixels(columns["image"], maximum=16)
  return Table(pixels, columns["label"]), ""


def _pen(split: str) -> tuple[Table, str]:
  columns = records.read_records("multimodal_digits/pen", split)
  return Table(columns["pen"].astype(np.float32) / 50 - 1, columns["label"]), ""


def _speech(split: str, num_samples: int) -> tuple[Table, str]:
  columns = records.read_records("multimodal_digits/speech", split)
  waveforms = audio.decode_waveforms(
    columns["flac"].tolist(), sample_rate=SAMPLE_RATE, num_samples=num_samples
  )
  note = (
    f"{waveforms.num_cropped} of {len(waveforms.samples)} recordings are "
    f"longer than {num_samples / SAMPLE_RATE:g} s and lost their end"
    if waveforms.num_cropped
    else ""
  )
  return Table(waveforms.samples, columns["label"]), note


def _texts(split: str, num_characters: int) -> tuple[Table, str]:
  columns = records.read_records("multimodal_digits/text", split)
  texts = text.CharacterVocabulary(DIGIT_ALPHABET).encode(
    columns["text"].tolist(), length=num_characters
  )
  note = (
    f"{texts.num_truncated} of {len(columns['text'])} texts are longer than "
    f"{num_characters} characters and lost their end"
    if texts.num_truncated
    else ""
  )
  return Table(texts.characters, columns["label"]), note
