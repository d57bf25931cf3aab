"""Data sets by the name that a config gives them."""

import functools
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from pmrl_jax.data import (
  ArraySource,
  Source,
  Transform,
  audio,
  datasets,
  read_records,
  tabular,
  text,
  vision,
)
from pmrl_jax.evaluation import Display

# What NumPy and zipfile raise when a file is something else, or damaged.
_DAMAGED = (
  EOFError,
  RuntimeError,
  TypeError,
  ValueError,
  zipfile.BadZipFile,
  zlib.error,
)


class Data(NamedTuple):
  """What a run reads."""

  train: Source
  test: Source  # held out
  displays: dict[str, Display]  # how the held-out items are drawn
  class_names: tuple[str, ...] | None
  vocabulary_sizes: dict[str, int]  # of the modalities that are text


def load_data(config: ml_collections.ConfigDict) -> Data:
  """Loads the data set that `config.data` names.

  Args:
    config: The run's config.

  Returns:
    The two splits and how to draw their items.

  Raises:
    ValueError: If the name or a modality is unknown, or the data is bad.
    FileNotFoundError: If a file is missing.
  """
  loaders: dict[str, Callable[[ml_collections.ConfigDict], Data]] = {
    "multimodal_digits": _multimodal_digits,
    "mfeat": _mfeat,
    "arrays": _arrays,
  }
  name = config.data.name
  if name not in loaders:
    raise ValueError(
      f"config.data.name must be one of {sorted(loaders)}, got {name!r}"
    )
  data = loaders[name](config)
  if len(data.train.modalities) < 2:
    raise ValueError(
      f"there must be two modalities or more to align, got "
      f"{list(data.train.modalities)}; set config.data.modalities"
    )
  return data


def load_transforms(
  config: ml_collections.ConfigDict, modalities: Sequence[str]
) -> dict[str, list[Transform]]:
  """The random changes of the training inputs that `config.transforms` names.

  Args:
    config: The run's config; `transforms.<modality>.<function>` holds the
      keyword arguments of one of the functions in `pmrl_jax.data`.
    modalities: The modalities of the run; others are left out.

  Returns:
    `{modality: functions}`.

  Raises:
    ValueError: If a function is unknown.
    TypeError: If its arguments do not fit.
  """
  functions: dict[str, Callable] = {
    "random_shift": vision.random_shift,
    "random_time_shift": audio.random_time_shift,
    "random_gain": audio.random_gain,
    "random_noise": audio.random_noise,
    "random_gaussian_noise": tabular.random_gaussian_noise,
  }
  transforms: dict[str, list[Transform]] = {}
  for modality in modalities:
    for name, arguments in config.transforms.get(modality, {}).items():
      if name not in functions:
        raise ValueError(
          f"config.transforms.{modality} names {name!r}; there are "
          f"{sorted(functions)}"
        )
      transforms.setdefault(modality, []).append(
        functools.partial(functions[name], **arguments)
      )
  return transforms


def _multimodal_digits(config: ml_collections.ConfigDict) -> Data:
  modalities = tuple(config.data.modalities)
  train, test = (
    datasets.multimodal_digits(
      split,
      modalities=modalities,
      seed=config.seed,
      ids=config.data.get("ids", "label"),
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


def _mfeat(config: ml_collections.ConfigDict) -> Data:
  views = tuple(config.data.modalities)
  train, test = (
    datasets.mfeat(split, views=views) for split in ("train", "test")
  )
  displays = {view: Display("vector", _all_items(test, view)) for view in views}
  if "pix" in displays:  # 16 rows of 15 pixels, before standardisation
    pixels = read_records("mfeat", "test")["pix"]
    displays["pix"] = Display("image", pixels.reshape(-1, 16, 15))
  return Data(train, test, displays, tuple(map(str, range(10))), {})


def _arrays(config: ml_collections.ConfigDict) -> Data:
  """A user's own rows: two `.npz` files."""
  train, test = (
    _read_arrays(config.data[split], tuple(config.data.modalities))
    for split in ("train", "test")
  )
  if train.spec != test.spec:
    raise ValueError(
      "the train and the test arrays must have rows of the same shape and "
      f"dtype, got {train.spec} and {test.spec}"
    )
  displays = {
    name: Display("vector", _all_items(test, name).reshape(len(test), -1))
    for name in test.modalities
  }
  return Data(train, test, displays, None, {})


def _read_arrays(path: str, modalities: Sequence[str]) -> ArraySource:
  """Reads a `.npz` with one array a modality, and maybe labels, ids, where."""
  if not Path(path).is_file():
    raise FileNotFoundError(
      f"the data file {path!r} does not exist; set config.data.train and "
      "config.data.test to .npz files"
    )
  try:
    # Opened here: NumPy forgets to close a file that is no archive.
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as content:
      arrays = {name: content[name] for name in content.files}
  except _DAMAGED as error:
    raise ValueError(
      f"{path} is no .npz file of plain arrays: {error}"
    ) from None
  missing = [name for name in modalities if name not in arrays]
  if missing:
    raise ValueError(
      f"{path} has no arrays {missing}; it has {sorted(arrays)}. Name the "
      "modalities in config.data.modalities"
    )
  values = {
    name: arrays[name].astype(np.float32)
    if arrays[name].dtype.kind == "f"
    else arrays[name]
    for name in modalities
  }
  return ArraySource(
    values,
    labels=arrays.get("labels"),
    ids=arrays.get("ids"),
    where=arrays.get("where"),
  )


def _all_items(source: Source, modality: str) -> np.ndarray:
  return source.inputs(modality, np.arange(source.num_items(modality)))
