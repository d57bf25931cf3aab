"""The shapes of a run's batches, with its data or without it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import ml_collections

from experiments.data_sets import Data, load_data
from experiments.data_sets.rows import build_input
from pmrl_jax import encoders
from pmrl_jax.data import Source, Spec


class Shapes(NamedTuple):
  """What the model is built for."""

  data: Data
  note: str | None  # what is to be known of where they come from


@dataclasses.dataclass(frozen=True)
class Described:
  """A split of which only the shapes are known."""

  modalities: tuple[str, ...]
  spec: Mapping[str, Spec]


def find(config: ml_collections.ConfigDict) -> Shapes:
  """The shapes of a config: those of its data, or else those it describes.

  Args:
    config: The run's config.

  Raises:
    ValueError: If the data is not there, and the config does not describe it.
  """
  try:
    return Shapes(load_data(config), None)
  except FileNotFoundError as error:
    data = _of_config(config, str(error))
    return Shapes(
      data,
      "the data is not there, so shapes are those that config.data.inputs "
      "describes",
    )


def batch(data: Data, batch_size: int) -> dict[str, Any]:
  """A global batch, as the objective sees it, without its numbers."""
  modalities = data.train.modalities
  return {
    "inputs": inputs(data, batch_size),
    "where": jax.ShapeDtypeStruct((batch_size, len(modalities)), bool),
    "ids": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
  }


def inputs(data: Data, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """What the model encodes."""
  return {
    name: jax.ShapeDtypeStruct((batch_size, *spec.shape), spec.dtype)
    for name, spec in data.train.spec.items()
  }


def _of_config(config: ml_collections.ConfigDict, missing: str) -> Data:
  """The shapes and vocabularies that a config describes."""
  described = config.data.get("inputs") or {}
  specs, sizes = {}, {}
  for name in config.data.get("modalities") or ():
    fields = dict(described.get(name) or {})
    kind = fields.pop("kind", None)
    where = f"config.data.inputs.{name}"
    if kind is None or (kind == "array" and "shape" not in fields):
      raise ValueError(
        f"{missing}. Without the data, shapes are read from {where}, which "
        "must then say the kind, and of an array the shape; see docs/data.md"
      )
    decoder = build_input(kind, fields, where, check_files=False)
    specs[name] = decoder.spec
    if kind == "characters":
      sizes[name] = decoder.vocabulary_size
    elif kind == "tokens":
      sizes[name] = _vocabulary_size(config.model, name)
  if not specs:
    raise ValueError(
      f"{missing}. Without the data, config.data must describe modalities and "
      "inputs, and it does not; see docs/data.md"
    )
  split = cast(Source, Described(tuple(specs), specs))
  return Data(split, split, {}, None, sizes)


def _vocabulary_size(model: ml_collections.ConfigDict, name: str) -> int:
  """How many ids an encoder knows; by default those of the published one."""
  shared = (model.get("modalities") or {}).get(name)
  described = model.get("encoders") or {}
  fields = described.get(shared.encoder if shared else name) or {}
  return fields.get("vocabulary_size") or encoders.Bert.vocabulary_size
