"""The data sets that ship with the package."""

from typing import Any

import ml_collections
import numpy as np

from experiments.data_sets.data import Data
from pmrl_jax.data import (
  ArraySource,
  ClassPairedSource,
  datasets,
  read_records,
  text,
)
from pmrl_jax.evaluation import Display


def multimodal_digits(data: ml_collections.ConfigDict, seed: int) -> Data:
  """Digits drawn, spoken and named."""
  modalities = tuple(data.modalities)
  train, test = (
    datasets.multimodal_digits(
      split,
      modalities=modalities,
      seed=seed,
      ids=data.get("ids", "label"),
    )
    for split in ("train", "test")
  )
  vocabulary = text.CharacterVocabulary(datasets.DIGIT_ALPHABET)
  kinds = {
    "image": "image",
    "speech": "waveform",
    "text": "text",
    "pen": "trajectory",
  }
  displays = {}
  for modality in modalities:
    items = _all_items(test, modality)
    values: Any = items
    if modality == "text":
      values = [vocabulary.decode(row) for row in items]
    rate = datasets.SAMPLE_RATE if modality == "speech" else None
    displays[modality] = Display(kinds[modality], values, rate)
  names = tuple(str(digit) for digit in range(10))
  return Data(train, test, displays, names, {"text": vocabulary.size})


def mfeat(data: ml_collections.ConfigDict, seed: int) -> Data:
  """Six views of handwritten digits."""
  views = tuple(data.modalities)
  train, test = (
    datasets.mfeat(split, views=views) for split in ("train", "test")
  )
  displays = {view: Display("vector", _all_items(test, view)) for view in views}
  if "pix" in displays:  # 16 rows of 15 pixels, before standardisation
    pixels = read_records("mfeat", "test")["pix"]
    displays["pix"] = Display("image", pixels.reshape(-1, 16, 15))
  return Data(train, test, displays, tuple(map(str, range(10))), {})


def _all_items(
  source: ArraySource | ClassPairedSource, modality: str
) -> np.ndarray:
  return source.inputs(modality, np.arange(source.num_items(modality)))
