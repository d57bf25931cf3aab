"""Rows of a manifest or of a TFDS data set, decoded when they are needed."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from experiments.data_sets.columns import Renamed
from experiments.data_sets.data import Data
from pmrl_jax.data import Input, Rows, RowSource, inputs, vision
from pmrl_jax.data.manifest import read_manifest
from pmrl_jax.data.tfds_rows import TfdsRows
from pmrl_jax.evaluation import Display

_INPUTS: dict[str, type] = {
  "array": inputs.ArrayInput,
  "characters": inputs.CharacterInput,
  "image": inputs.ImageInput,
  "spectrogram": inputs.SpectrogramInput,
  "tokens": inputs.TokenInput,
  "video": inputs.VideoInput,
  "waveform": inputs.WaveformInput,
}


# What a kind of value becomes if the config does not say.
_DEFAULTS = {
  "array": "array",
  "audio": "waveform",
  "image": "image",
  "text": "characters",
  "vector": "array",
  "video": "video",
}
_DEFAULT_FIELDS: dict[str, dict[str, Any]] = {
  "characters": {"length": 64},
  "waveform": {"num_samples": 80_000},  # 5 s
}


def manifest(data: ml_collections.ConfigDict, seed: int) -> Data:
  """A table of media files, arrays and texts; see docs/data.md."""
  train, test = (
    read_manifest(
      data[split],
      root=data.get("root"),
      kinds=dict(data.get("kinds", {})) or None,
      split=data.get(f"{split}_split"),
    )
    for split in ("train", "test")
  )
  return _data(data, seed, train, test)


def tfds(data: ml_collections.ConfigDict, seed: int) -> Data:
  """A prepared TFDS data set, by name or folder; see docs/data.md."""
  features = dict(data.get("features") or {})
  train, test = (
    TfdsRows(
      data_set,
      data[split],
      features=features or None,
      kinds=dict(data.get("kinds", {})),
      ids=data.get("id"),
      label=data.get("label"),
      source=data.get("source"),
      data_dir=data.get("data_dir"),
    )
    for split, data_set in (
      ("train", data.data_set),
      ("test", data.get("test_data_set") or data.data_set),
    )
  )
  return _data(data, seed, train, test)


def _data(
  data: ml_collections.ConfigDict, seed: int, train: Rows, test: Rows
) -> Data:
  modalities = tuple(data.modalities)
  columns = {
    modality: column
    for modality, column in (data.get("columns") or {}).items()
    if modality in modalities
  }
  if columns:
    train, test = Renamed(train, columns), Renamed(test, columns)
  for split, rows in (("training", train), ("held-out", test)):
    missing = [name for name in modalities if name not in rows.kinds]
    if missing:
      raise ValueError(
        f"the {split} data has no modalities {missing}; it has "
        f"{list(rows.kinds)}. Name what it has in config.data.modalities"
      )
  described = data.get("inputs", {})
  decoders = {
    name: _input(name, train, dict(described.get(name, {})))
    for name in modalities
  }
  # Held-out data may be read in another way, as more frames of a video.
  changes = data.get("test_inputs") or {}
  _check_changes(changes, described)
  held_out = RowSource(
    test,
    decoders
    | {
      name: _input(name, train, {**described[name], **changes[name]})
      for name in modalities
      if changes.get(name)
    },
    captions="all",
  )
  return Data(
    RowSource(train, decoders, captions="draw", seed=seed),
    held_out,
    {name: _display(held_out, name, test.kinds[name]) for name in modalities},
    None,
    {
      name: decoder.vocabulary_size
      for name, decoder in decoders.items()
      if hasattr(decoder, "vocabulary_size")
    },
  )


def _check_changes(changes: Mapping[str, Any], described: Any) -> None:
  """Raises if inputs of held-out data are none of the training data."""
  if unknown := sorted(set(changes) - set(described)):
    raise ValueError(
      f"config.data.test_inputs changes {unknown}, which config.data.inputs, "
      f"with {sorted(described)}, does not describe"
    )


def _input(name: str, rows: Rows, fields: dict[str, Any]) -> Input:
  """One modality's input from its kind and fields."""
  kind = fields.pop("kind", _DEFAULTS[rows.kinds[name]])
  fields = {**_DEFAULT_FIELDS.get(kind, {}), **fields}
  if kind == "array" and "shape" not in fields:
    column = list(rows.kinds).index(name)
    present = np.flatnonzero(rows.where[:, column])
    if not present.size:
      raise ValueError(f"no row of the training data has the modality {name!r}")
    value = rows.value(int(present[0]), name)
    fields["shape"] = inputs.read_array(value).shape
  return build_input(kind, fields, f"config.data.inputs.{name}")


def build_input(
  kind: str, fields: Mapping[str, Any], name: str, *, check_files: bool = True
) -> Any:
  """The input of a kind and fields, as `config.data.inputs` names them.

  Args:
    kind: One of those of the config.
    fields: What it takes.
    name: The key of the config, for errors.
    check_files: Whether a tokenizer's file has to be there.

  Returns:
    The input.

  Raises:
    ValueError: If the kind or a field is unknown, missing or out of range.
    FileNotFoundError: If the file of a tokenizer is not there.
  """
  if kind not in _INPUTS:
    raise ValueError(
      f"{name}.kind must be one of {sorted(_INPUTS)}, got {kind!r}"
    )
  known = {field.name: field for field in dataclasses.fields(_INPUTS[kind])}
  if unknown := sorted(set(fields) - set(known)):
    raise ValueError(
      f"{name} has the unknown fields {unknown}; {kind} has {sorted(known)}"
    )
  missing = [
    field.name
    for field in known.values()
    if field.default is dataclasses.MISSING and field.name not in fields
  ]
  if missing:
    raise ValueError(f"{name} lacks the fields {missing} of {kind}")
  if kind == "tokens" and check_files:
    _check_tokenizer(fields["tokenizer"], f"{name}.tokenizer")
  result = _INPUTS[kind](**fields)
  if not all(size > 0 for size in result.spec.shape):
    raise ValueError(f"{name} describes items of shape {result.spec.shape}")
  return result


def _check_tokenizer(path: Any, name: str) -> None:
  """Raises if the file of a tokenizer is not there."""
  if not path or not Path(path).is_file():
    raise FileNotFoundError(
      f"{name} (which follows config.data.vocabulary where a config has that) "
      f"is {path!r}, and there is no such file; the published model reads the "
      "vocab.txt of bert-base-uncased, which its publisher offers"
    )


class _Items(Sequence):
  """The items of a modality as they are drawn, read when they are asked for."""

  def __init__(self, source: RowSource, modality: str, decode: Any):
    self._source = source
    self._modality = modality
    self._decode = decode

  def __len__(self) -> int:
    return self._source.num_items(self._modality)

  def __getitem__(self, item: Any) -> Any:
    return self._decode(self._source.value(self._modality, int(item)))


def _display(source: RowSource, modality: str, kind: str) -> Display:
  rate = 8000  # Hz, enough to look at
  pictures = inputs.ImageInput(resolution=96, transform="random_crop")
  frames = inputs.VideoInput(1, resolution=96, transform="random_crop")
  sound = inputs.WaveformInput(num_samples=3 * rate, sample_rate=rate)

  def picture(pixels: np.ndarray) -> np.ndarray:
    mean, std = map(np.asarray, (vision.CLIP_MEAN, vision.CLIP_STD))
    return np.clip(pixels * std + mean, 0, 1)

  drawn, decode = {
    "image": ("image", lambda value: picture(pictures(None, value))),
    "video": ("image", lambda value: picture(frames(None, value)[0])),
    "audio": ("waveform", lambda value: sound(None, value)),
    "text": ("text", lambda value: value),
    "array": ("vector", lambda value: inputs.read_array(value).ravel()),
    "vector": ("vector", lambda value: inputs.read_array(value).ravel()),
  }[kind]
  items = _Items(source, modality, decode)
  return Display(drawn, items, rate if drawn == "waveform" else None)
