"""A user's own rows of numbers, in two `.npz` files."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import numpy as np

from experiments.data_sets.data import Data
from pmrl_jax.data import ArraySource
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


def arrays(data: ml_collections.ConfigDict, seed: int) -> Data:
  """A user's own rows: two `.npz` files."""
  train, test = (
    _read_arrays(data[split], tuple(data.modalities))
    for split in ("train", "test")
  )
  if train.spec != test.spec:
    raise ValueError(
      "the train and the test arrays must have rows of the same shape and "
      f"dtype, got {train.spec} and {test.spec}"
    )
  displays = {
    name: Display(
      "vector",
      test.inputs(name, np.arange(len(test))).reshape(len(test), -1),
    )
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
