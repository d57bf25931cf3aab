"""Config -> encoders, by the kind and the fields that a config gives them."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn

from pmrl_jax import encoders

_ENCODERS: dict[str, type[nn.Module]] = {
  "ast": encoders.AudioSpectrogramTransformer,
  "beats": encoders.Beats,
  "bert": encoders.Bert,
  "character_transformer": encoders.CharacterTransformer,
  "clip_vit": encoders.ClipVisionTransformer,
  "eva": encoders.EvaVisionTransformer,
  "spectrogram_transformer": encoders.SpectrogramTransformer,
  "table": encoders.TableEncoder,
  "trajectory_transformer": encoders.TrajectoryTransformer,
  "vision_transformer": encoders.VisionTransformer,
}
# Those that return tokens: how many axes one of their inputs has.
_NUM_AXES = {"ast": 2, "beats": 2, "bert": 1, "clip_vit": 3, "eva": 3}
# So many blocks compile in seconds.
_MAX_UNROLLED = 12


def build_encoder(
  where: str, described: Mapping[str, Any], platform: str
) -> nn.Module:
  """One encoder from its kind and fields.

  Args:
    where: The key of the config, for errors.
    described: `kind`, and fields of the module. Without `scan_layers`, this
      is `loops_over_layers`.
    platform: What it is compiled for: "cpu", "gpu" or "tpu".

  Returns:
    The module.

  Raises:
    ValueError: If the kind or a field is unknown, missing or out of range.
  """
  fields = dict(described)
  kind = fields.pop("kind", None)
  if kind not in _ENCODERS:
    raise ValueError(
      f"{where}.kind must be one of {sorted(_ENCODERS)}, got {kind!r}"
    )
  declared = fields_of(_ENCODERS[kind])
  check_fields(where, fields, declared, f"a {kind}")
  missing = [
    name
    for name, field in declared.items()
    if field.default is dataclasses.MISSING and name not in fields
  ]
  if missing:
    raise ValueError(f"{where} lacks the fields {missing} of a {kind}")
  for name, value in fields.items():
    if isinstance(value, int | float) and not isinstance(value, bool):
      _check_range(f"{where}.{name}", value, declared[name].default)
  if "scan_layers" in declared:
    depth, remat = (
      fields.get(name, declared[name].default) for name in ("depth", "remat")
    )
    fields.setdefault("scan_layers", loops_over_layers(depth, remat, platform))
  return _ENCODERS[kind](**fields)


def loops_over_layers(depth: int, remat: str, platform: str) -> bool:
  """Whether layers compile as a loop where a config leaves it open.

  On a CPU a loop costs time in every step: it copies the weights of a layer
  out of those of all, and what the backward pass needs into such a stack and
  out again (docs/benchmarks.md has the figures). Yet layers are a loop there
  too if they are many, since unrolled they take as many times as long to
  compile, or if memory counts for more than time: without a loop the CPU's
  compiler computes nothing again, whatever `remat` says.

  Args:
    depth: The number of layers.
    remat: What is computed again in the backward pass.
    platform: What they are compiled for: "cpu", "gpu" or "tpu".
  """
  return platform != "cpu" or remat != "none" or depth > _MAX_UNROLLED


def build_single_encoder(
  where: str, described: Mapping[str, Any], num_axes: int, platform: str
) -> nn.Module:
  """An encoder of one vector; one of tokens gets a `pooling`.

  Args:
    where: The key of the config, for errors.
    described: As for `build_encoder`; of an encoder of tokens also `pooling`,
      "class" (by default) or "mean".
    num_axes: The number of axes of an input; one more than the encoder takes
      are clips.
    platform: As for `build_encoder`.

  Returns:
    The module.

  Raises:
    ValueError: As `build_encoder` does, or if the input does not fit.
  """
  fields = dict(described)
  expected = _NUM_AXES.get(fields.get("kind", ""))
  if expected is None:
    return build_encoder(where, fields, platform)
  pooling = fields.pop("pooling", "class")
  if pooling not in ("class", "mean"):
    raise ValueError(
      f"{where}.pooling must be 'class' or 'mean', got {pooling!r}"
    )
  if num_axes not in (expected, expected + 1):
    raise ValueError(
      f"{where} is a {fields['kind']}, whose inputs have {expected} axes, or "
      f"one more for clips, and the data's have {num_axes}; choose another "
      "kind here, or another one in config.data.inputs"
    )
  return encoders.PooledEncoder(
    build_encoder(where, fields, platform),
    pooling=pooling,
    has_clips=num_axes > expected,
  )


def fields_of(module: type) -> dict[str, dataclasses.Field]:
  """The fields of a dataclass, such as a module, by their names."""
  return {
    field.name: field
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
  }


def check_fields(
  where: str, fields: Collection[str], known: Collection[str], what: str
) -> None:
  """Raises if a field of the config is unknown."""
  if unknown := sorted(set(fields) - set(known)):
    raise ValueError(
      f"{where} has the unknown fields {unknown}; {what} has {sorted(known)}"
    )


def _check_range(where: str, value: float, default: Any) -> None:
  """Checks a number; 0 switches off what is off by default, or is dropped."""
  name = where.rpartition(".")[2]
  is_rate = "drop" in name and name.endswith("rate")
  may_be_zero = default == 0 or is_rate or name == "head_width"
  if value < 0 or (value == 0 and not may_be_zero):
    raise ValueError(f"{where} must be positive, got {value}")
  if is_rate and value >= 1:
    raise ValueError(f"{where} must be less than 1, got {value}")
