"""Config -> model: encoders by the kind that a config gives them."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from experiments.data_sets import Data
from pmrl_jax import encoders

_ENCODERS: dict[str, type[nn.Module]] = {
  "character_transformer": encoders.CharacterTransformer,
  "spectrogram_transformer": encoders.SpectrogramTransformer,
  "table": encoders.TableEncoder,
  "trajectory_transformer": encoders.TrajectoryTransformer,
  "vision_transformer": encoders.VisionTransformer,
}
_PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(
  config: ml_collections.ConfigDict, data: Data
) -> encoders.MultimodalEncoder:
  """Builds the encoders of the run's modalities.

  Args:
    config: `model.encoders.<modality>` holds the encoder's `kind` and fields;
      `model.default_encoder`, if it is there, those of the other modalities.
    data: What the run reads.

  Returns:
    The model.

  Raises:
    ValueError: If a modality has no encoder, or a kind, field or precision is
      unknown.
  """
  if config.precision not in _PRECISIONS:
    raise ValueError(
      f"config.precision must be one of {sorted(_PRECISIONS)}, got "
      f"{config.precision!r}"
    )
  if config.model.dim < 1:
    raise ValueError(
      f"config.model.dim must be at least 1, got {config.model.dim}"
    )
  dtype = _PRECISIONS[config.precision]
  described = config.model.encoders
  default = config.model.get("default_encoder")
  modules = {}
  for modality in data.train.modalities:
    if modality not in described and default is None:
      raise ValueError(
        f"the modality {modality!r} has no encoder: config.model.encoders "
        f"describes {sorted(described)}. Add "
        f"config.model.encoders.{modality}, or take it out of "
        "config.data.modalities"
      )
    fields = dict(described.get(modality, default), dtype=dtype)
    if modality in data.vocabulary_sizes:
      fields.setdefault("vocabulary_size", data.vocabulary_sizes[modality])
    modules[modality] = _encoder(modality, fields)
  return encoders.MultimodalEncoder(
    encoders=modules, dim=config.model.dim, dtype=dtype
  )


def _encoder(modality: str, fields: dict[str, Any]) -> nn.Module:
  """One encoder from its kind and fields."""
  where = f"config.model.encoders.{modality}"
  kind = fields.pop("kind", None)
  if kind not in _ENCODERS:
    raise ValueError(
      f"{where}.kind must be one of {sorted(_ENCODERS)}, got {kind!r}"
    )
  declared = {
    field.name: field
    for field in dataclasses.fields(_ENCODERS[kind])
    if field.name not in ("parent", "name")
  }
  if unknown := sorted(set(fields) - set(declared)):
    raise ValueError(
      f"{where} has the unknown fields {unknown}; a {kind} has "
      f"{sorted(declared)}"
    )
  missing = [
    name
    for name, field in declared.items()
    if field.default is dataclasses.MISSING and name not in fields
  ]
  if missing:
    raise ValueError(f"{where} lacks the fields {missing} of a {kind}")
  for name, value in fields.items():
    if isinstance(value, int | float):
      _check_range(f"{where}.{name}", value, declared[name].default)
  return _ENCODERS[kind](**fields)


def _check_range(where: str, value: float, default: Any) -> None:
  """Checks a number; 0 switches off what is off by default."""
  if value < 0 or (value == 0 and default != 0):
    raise ValueError(f"{where} must be positive, got {value}")
  if where.endswith("dropout_rate") and value >= 1:
    raise ValueError(f"{where} must be less than 1, got {value}")
