"""Config -> model: encoders of the run's modalities, in one space."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jax.typing import DTypeLike

from experiments.data_sets import Data
from experiments.encoders import (
  build_encoder,
  build_single_encoder,
  check_fields,
  fields_of,
)
from pmrl_jax import encoders

_PRECISIONS = {
  "float32": jnp.float32,
  "bfloat16": jnp.bfloat16,
  "float16": jnp.float16,  # with a scale of the loss; see build.py
}
_KINDS = ("multimodal", "pmrl")
# Of `config.model` for the published model.
_PMRL_FIELDS = (
  "kind",
  "dim",
  "width",
  "caption",
  "encoders",
  "modalities",
  "fusions",
)


def build_model(
  config: ml_collections.ConfigDict, data: Data, platform: str | None = None
) -> nn.Module:
  """Builds the model of a run.

  Args:
    config: `model.kind` is "multimodal" (the default), one encoder for each
      modality, or "pmrl", the published model.
      `model.encoders.<name>` holds an encoder's `kind` and fields; the names
      are those of modalities, for "pmrl" those in `model.modalities`, which
      describes these as `encoders.Modality`; what the run does not read is
      left out of the model. `model.default_encoder`, if it is there, is the
      encoder of the other modalities of a "multimodal" one.
    data: What the run reads.
    platform: What the model is compiled for: "cpu", "gpu" or "tpu"; by
      default the devices at hand. Parameters do not depend on it.

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
  kind = config.model.get("kind", "multimodal")
  if kind not in _KINDS:
    raise ValueError(
      f"config.model.kind must be one of {list(_KINDS)}, got {kind!r}"
    )
  dtype = _PRECISIONS[config.precision]
  build = _published if kind == "pmrl" else _multimodal
  return build(config.model, data, dtype, platform or jax.default_backend())


def _multimodal(
  config: ml_collections.ConfigDict,
  data: Data,
  dtype: DTypeLike,
  platform: str,
) -> encoders.MultimodalEncoder:
  """One encoder for each modality."""
  described = config.encoders
  default = config.get("default_encoder")
  modules = {}
  for modality, spec in data.train.spec.items():
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
    modules[modality] = build_single_encoder(
      f"config.model.encoders.{modality}", fields, len(spec.shape), platform
    )
  return encoders.MultimodalEncoder(
    encoders=modules, dim=config.dim, dtype=dtype
  )


def _published(
  config: ml_collections.ConfigDict,
  data: Data,
  dtype: DTypeLike,
  platform: str,
) -> encoders.PMRLModel:
  """The published model, of the modalities that the run reads."""
  check_fields("config.model", config, _PMRL_FIELDS, "a pmrl")
  modalities = {
    name: _modality(name, config.modalities) for name in data.train.modalities
  }
  caption = config.get("caption", "text")
  if caption not in modalities:
    raise ValueError(
      f"the run reads {list(modalities)}, and not the captions, {caption!r}; "
      "add them to config.data.modalities, or name them in config.model.caption"
    )
  modules = {
    name: _shared_encoder(
      name, modalities, config.encoders, data, dtype, platform
    )
    for name in dict.fromkeys(each.encoder for each in modalities.values())
  }
  if not isinstance(modules[modalities[caption].encoder], encoders.Bert):
    raise ValueError(
      "the encoder of the captions has to look at other modalities, which a "
      f"bert does; got {config.encoders[modalities[caption].encoder].kind!r}"
    )
  return encoders.PMRLModel(
    encoders=modules,
    modalities=modalities,
    fusions=tuple(
      tuple(names)
      for names in config.get("fusions", ())
      if set(names) <= set(modalities)
    ),
    caption=caption,
    dim=config.dim,
    width=config.width,
    dtype=dtype,
  )


def _modality(
  name: str, described: ml_collections.ConfigDict
) -> encoders.Modality:
  """One modality from its fields."""
  where = f"config.model.modalities.{name}"
  if name not in described:
    raise ValueError(
      f"the modality {name!r} is not described: config.model.modalities has "
      f"{sorted(described)}. Add {where}, or take it out of "
      "config.data.modalities (config.data.columns gives columns the names of "
      "modalities)"
    )
  known = fields_of(encoders.Modality)
  check_fields(where, described[name], known, "a modality")
  if "encoder" not in described[name]:
    raise ValueError(f"{where} must name its encoder")
  return encoders.Modality(**described[name])


def _shared_encoder(
  name: str,
  modalities: Mapping[str, encoders.Modality],
  described: ml_collections.ConfigDict,
  data: Data,
  dtype: DTypeLike,
  platform: str,
) -> nn.Module:
  """The encoder of one modality or more."""
  where = f"config.model.encoders.{name}"
  readers = [m for m, each in modalities.items() if each.encoder == name]
  if name not in described:
    raise ValueError(
      f"there is no encoder {name!r}, which {readers} name; config.model."
      f"encoders describes {sorted(described)}. Add {where}"
    )
  fields: dict[str, Any] = dict(described[name], dtype=dtype)
  sizes = {
    reader: data.vocabulary_sizes[reader]
    for reader in readers
    if reader in data.vocabulary_sizes
  }
  if len(set(sizes.values())) > 1:
    raise ValueError(
      f"{where} reads modalities with different vocabularies, of {sizes} ids; "
      "give them the same tokenizer in config.data.inputs"
    )
  for size in sizes.values():
    if size > fields.setdefault("vocabulary_size", size):
      raise ValueError(
        f"{where}.vocabulary_size is {fields['vocabulary_size']}, and the "
        f"tokenizer has {size} ids; leave it out to have as many"
      )
  return build_encoder(where, fields, platform)
