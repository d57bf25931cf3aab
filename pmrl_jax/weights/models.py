"""The models whose checkpoints are known: sizes, tables, inputs."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pmrl_jax import encoders
from pmrl_jax.encoders import PUBLISHED_MODALITIES
from pmrl_jax.weights import sizes
from pmrl_jax.weights.ast import ast_from_config, ast_table
from pmrl_jax.weights.beats import beats_from_config, beats_table
from pmrl_jax.weights.bert import bert_base_table, bert_table
from pmrl_jax.weights.clip_vit import clip_vit_table
from pmrl_jax.weights.eva import eva_table
from pmrl_jax.weights.keys import published, without_module
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.resizing import EVA_CLIP, PUBLISHED, Resizing
from pmrl_jax.weights.tables import Line, Unused, prefixed
from pmrl_jax.weights.tensors import LazyTensor, Tensors

_AST = "audio_spectrogram_transformer."
# The rest of a CLIP, of which the vision tower is wanted.
_TEXT_TOWER = [
  Unused("text.*"),
  Unused("logit_scale"),
  Unused("transformer.resblocks.*"),
  Unused("token_embedding.weight"),
  Unused("positional_embedding"),
  Unused("text_projection"),
  Unused("ln_final.*"),
  Unused("visual.head.*"),
  Unused("input_resolution"),
  Unused("context_length"),
  Unused("vocab_size"),
]


class Model(NamedTuple):
  """What is known of the checkpoints of a model.

  Attributes:
    infer: Fields of the module, from the shapes in a checkpoint and settings
      that were found with it.
    build: The module of such fields.
    table: What is what, from the module and the keys.
    inputs: What the module is called with.
    keys: What becomes of the checkpoint's keys before all that.
    resizing: What may have another size.
  """

  infer: Callable[[sizes.Shapes, Mapping[str, Any]], dict[str, Any]]
  build: Callable[[Mapping[str, Any]], Any]
  table: Callable[[Any, Iterable[str]], list[Line]]
  inputs: Callable[[Any], Any]
  keys: Callable[[Tensors], dict[str, LazyTensor]] = without_module
  resizing: Resizing = {}


def parameters(model: Model, module: nn.Module) -> Any:
  """Shapes and dtypes of a module's parameters, as a tree."""
  return jax.eval_shape(initialiser(model, module))


def initialiser(
  model: Model, module: nn.Module, seed: int = 0
) -> Callable[[], Any]:
  """A function that makes a module's parameters.

  Args:
    model: What is known of the model.
    module: The module.
    seed: Of the random numbers.
  """

  def init() -> Any:
    inputs = jax.tree.map(
      lambda spec: jnp.zeros(spec.shape, spec.dtype), model.inputs(module)
    )
    variables = module.init(jax.random.key(seed), inputs, train=False)
    return variables["params"]

  return init


def _builder(
  module: type, prefix: str = ""
) -> Callable[[Mapping[str, Any]], Any]:
  """What makes a module of its fields, or says which are wrong."""
  known = {field.name for field in dataclasses.fields(module)}
  known -= {"parent", "name"}

  def build(fields: Mapping[str, Any]) -> Any:
    if unknown := sorted(set(fields) - known):
      raise ValueError(
        f"a {module.__name__} has no fields {unknown}; it has {sorted(known)}"
      )
    if "num_heads" not in fields:
      raise ValueError(
        f"the number of heads of a {module.__name__} of width "
        f"{fields.get('width')} is not known; give the field "
        f"{prefix}num_heads"
      )
    return module(
      **{
        name: jnp.dtype(value) if name.endswith("dtype") else value
        for name, value in fields.items()
      }
    )

  return build


def _different(module: Any) -> dict[str, Any]:
  """The fields of a module that are not as by default."""
  return {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
    and getattr(module, field.name) != field.default
  }


def _infer_beats(
  shapes: sizes.Shapes, settings: Mapping[str, Any]
) -> dict[str, Any]:
  inferred = sizes.beats_fields(shapes)
  if "input_patch_size" not in settings:
    return inferred
  return inferred | _different(beats_from_config(settings))


def _infer_bert(
  shapes: sizes.Shapes, settings: Mapping[str, Any]
) -> dict[str, Any]:
  heads = settings.get("num_attention_heads")
  beside = {} if heads is None else {"num_heads": heads}
  return sizes.bert_fields(shapes) | beside


def _bert_table(module: encoders.Bert, names: Iterable[str]) -> list[Line]:
  names = list(names)
  if not names or any(".crossattention." in name for name in names):
    return bert_table(module)
  return bert_base_table(module, names)


def _infer_ast(
  shapes: sizes.Shapes, settings: Mapping[str, Any]
) -> dict[str, Any]:
  inferred = sizes.ast_fields(sizes.below(shapes, _AST) or shapes)
  if "num_mel_bins" not in settings:
    return inferred
  return inferred | _different(ast_from_config(settings))


def _ast_table(
  module: encoders.AudioSpectrogramTransformer, names: Iterable[str]
) -> list[Line]:
  names = list(names)
  is_below = not names or any(name.startswith(_AST) for name in names)
  table = prefixed(ast_table(module), key=_AST if is_below else "")
  return [*table, Unused("classifier.*")]


def _infer_published(
  shapes: sizes.Shapes, settings: Mapping[str, Any]
) -> dict[str, Any]:
  """The fields of the parts, with their names before them."""
  text = sizes.bert_fields(sizes.below(shapes, "multimodal_encoder."))
  vision = sizes.eva_fields(sizes.below(shapes, "vision_encoder.visual."))
  vision["head_width"] = 0  # the model has no use for it
  audio = sizes.beats_fields(sizes.below(shapes, "audio_encoder."))
  parts = {"text": text, "vision": vision, "audio": audio}
  fields = {
    f"{part}.{name}": value
    for part, fields in parts.items()
    for name, value in fields.items()
  }
  for name in ("vision", "audio"):
    if clips := shapes.get(f"{name}_frame_embedding"):
      fields[f"{name}_clips"] = clips[1]
  if head := shapes.get("contra_head_t.linear.weight"):
    fields["dim"] = head[0]
  return {**fields, "width": text["width"]}


def _build_published(fields: Mapping[str, Any]) -> encoders.PMRLModel:
  """The published model; fields of an encoder have its name before them."""
  own: dict[str, Any] = {}
  parts: dict[str, dict[str, Any]] = {"text": {}, "vision": {}, "audio": {}}
  for name, value in fields.items():
    part, dot, field = name.partition(".")
    if dot and part in parts:
      parts[part][field] = value
    else:
      own[name] = value
  known = {"dim", "width", "vision_clips", "audio_clips", "param_dtype"}
  if unknown := sorted(set(own) - known):
    raise ValueError(
      f"the published model has no fields {unknown}; it has {sorted(known)}, "
      f"and those of its parts as {[f'{part}.depth' for part in parts]}"
    )
  modalities = dict(PUBLISHED_MODALITIES)
  for name in ("vision", "audio"):
    if (clips := own.pop(f"{name}_clips", None)) is not None:
      modalities[name] = dataclasses.replace(modalities[name], num_clips=clips)
  if "param_dtype" in own:
    own["param_dtype"] = jnp.dtype(own["param_dtype"])
  towers = {
    "text": encoders.Bert,
    "vision": encoders.EvaVisionTransformer,
    "audio": encoders.Beats,
  }
  dtype = {k: v for k, v in own.items() if k == "param_dtype"}
  modules = {
    name: _builder(tower, f"{name}.")(dtype | parts[name])
    for name, tower in towers.items()
  }
  return encoders.PMRLModel(encoders=modules, modalities=modalities, **own)


def _published_inputs(model: encoders.PMRLModel) -> Any:
  inputs = {}
  for name, modality in model.modalities.items():
    encoder: Any = model.encoders[modality.encoder]
    one = _INPUTS[type(encoder)](encoder)
    clips = () if modality.num_clips is None else (modality.num_clips,)
    inputs[name] = jax.ShapeDtypeStruct(
      (one.shape[0], *clips, *one.shape[1:]), one.dtype
    )
  return inputs


def _images(module: Any) -> jax.ShapeDtypeStruct:
  side = module.image_size
  return jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)


# The smallest that shows all parameters.
_INPUTS: dict[type, Callable[[Any], jax.ShapeDtypeStruct]] = {
  encoders.Bert: lambda module: jax.ShapeDtypeStruct((1, 1), jnp.int32),
  encoders.Beats: lambda module: jax.ShapeDtypeStruct(
    (1, module.patch_size, module.patch_size), jnp.float32
  ),
  encoders.EvaVisionTransformer: _images,
  encoders.ClipVisionTransformer: _images,
  encoders.AudioSpectrogramTransformer: lambda module: jax.ShapeDtypeStruct(
    (1, module.num_frames, module.num_mels), jnp.float32
  ),
}


def _inputs(module: Any) -> jax.ShapeDtypeStruct:
  return _INPUTS[type(module)](module)


def _visual(table: Callable[[Any], list[Any]]) -> Callable:
  """The table of a vision tower in the file of a CLIP."""
  return lambda module, names: [
    *prefixed(table(module), key="visual."),
    *_TEXT_TOWER,
  ]


MODELS: dict[str, Model] = {
  "pmrl": Model(
    infer=_infer_published,
    build=_build_published,
    table=lambda module, names: published_table(module),
    inputs=_published_inputs,
    keys=published,
    resizing=PUBLISHED,
  ),
  "eva": Model(
    infer=lambda shapes, _: sizes.eva_fields(sizes.below(shapes, "visual.")),
    build=_builder(encoders.EvaVisionTransformer),
    table=_visual(eva_table),
    inputs=_inputs,
    resizing=EVA_CLIP,
  ),
  "beats": Model(
    infer=_infer_beats,
    build=_builder(encoders.Beats),
    table=lambda module, names: [*beats_table(module), Unused("predictor.*")],
    inputs=_inputs,
  ),
  "bert": Model(
    infer=_infer_bert,
    build=_builder(encoders.Bert),
    table=_bert_table,
    inputs=_inputs,
  ),
  "clip_vit": Model(
    infer=lambda shapes, _: sizes.clip_vit_fields(
      sizes.below(shapes, "visual.")
    ),
    build=_builder(encoders.ClipVisionTransformer),
    table=_visual(clip_vit_table),
    inputs=_inputs,
  ),
  "ast": Model(
    infer=_infer_ast,
    build=_builder(encoders.AudioSpectrogramTransformer),
    table=_ast_table,
    inputs=_inputs,
  ),
}
