"""The fields of a module, from the shapes in a checkpoint.

What shapes do not tell, such as the number of heads, is that of the published
model of this size; of other sizes it has to be given.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pmrl_jax.encoders import CLIP_VIT, EVA_CLIP
from pmrl_jax.encoders.clip_vit import ClipVisionTransformer
from pmrl_jax.encoders.eva import EvaVisionTransformer
from pmrl_jax.encoders.resize import square_side

Shapes = Mapping[str, tuple[int, ...]]


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
  """The shapes whose keys have a prefix, without it."""
  return {
    key.removeprefix(prefix): tuple(shape)
    for key, shape in shapes.items()
    if key.startswith(prefix)
  }


def eva_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of `EvaVisionTransformer`, keys as below `visual.`."""
  width, depth = _shape(shapes, "cls_token")[-1], _depth(shapes, "blocks")
  patch = _shape(shapes, "patch_embed.proj.weight")[-1]
  block = below(shapes, "blocks.0.")
  fields = {
    "width": width,
    "depth": depth,
    "patch_size": patch,
    "image_size": patch * square_side(_shape(shapes, "pos_embed")),
    "mlp_width": _first(block, "mlp.fc1.weight", "mlp.w1.weight"),
    "fused_qkv": "attn.qkv.weight" in block,
    "attention_norm": "attn.inner_attn_ln.weight" in block,
    "mlp_norm": "mlp.ffn_ln.weight" in block,
    "swiglu": "mlp.w1.weight" in block,
    "head_width": shapes.get("head.weight", (0,))[0],
  }
  return _known(EVA_CLIP, EvaVisionTransformer, fields) | fields


def clip_vit_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of `ClipVisionTransformer`, keys as below `visual.`."""
  patch = _shape(shapes, "conv1.weight")[-1]
  positions = _shape(shapes, "positional_embedding")
  fields = {
    "width": positions[-1],
    "depth": _depth(shapes, "transformer.resblocks"),
    "patch_size": patch,
    "image_size": patch * square_side((1, *positions)),
    "mlp_width": _first(shapes, "transformer.resblocks.0.mlp.c_fc.weight"),
    "head_width": shapes.get("proj", (0, 0))[-1],
  }
  return _known(CLIP_VIT, ClipVisionTransformer, fields) | fields


def beats_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of `Beats`."""
  kernel = _shape(shapes, "patch_embedding.weight")
  convolution = _shape(shapes, "encoder.pos_conv.0.weight_v")
  layer = "encoder.layers.0"
  return {
    "width": convolution[0],
    "depth": _depth(shapes, "encoder.layers"),
    "num_heads": _shape(shapes, f"{layer}.self_attn.grep_a")[1],
    "mlp_width": _first(shapes, f"{layer}.fc1.weight"),
    "patch_size": kernel[-1],
    "patch_width": kernel[0],
    "patch_bias": "patch_embedding.bias" in shapes,
    "conv_kernel": convolution[2],
    "conv_groups": convolution[0] // convolution[1],
    "num_buckets": _first(
      shapes, f"{layer}.self_attn.relative_attention_bias.weight"
    ),
  }


def bert_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of `Bert`, with or without `bert.` before the keys."""
  shapes = below(shapes, "bert.") or shapes
  words = _shape(shapes, "embeddings.word_embeddings.weight")
  types = _shape(shapes, "embeddings.token_type_embeddings.weight")
  return {
    "vocabulary_size": words[0],
    "width": words[1],
    "depth": _depth(shapes, "encoder.layer"),
    **_heads_of_64(words[1]),
    "mlp_width": _first(shapes, "encoder.layer.0.intermediate.dense.weight"),
    "max_length": _first(shapes, "embeddings.position_embeddings.weight"),
    "num_token_types": types[0],
    "cross_attention": any(".crossattention." in key for key in shapes),
  }


def ast_fields(shapes: Shapes) -> dict[str, Any]:
  """Fields of `AudioSpectrogramTransformer`."""
  width = _shape(shapes, "embeddings.cls_token")[-1]
  kernel = _shape(shapes, "embeddings.patch_embeddings.projection.weight")
  return {
    "width": width,
    "depth": _depth(shapes, "encoder.layer"),
    **_heads_of_64(width),
    "mlp_width": _first(shapes, "encoder.layer.0.intermediate.dense.weight"),
    "patch_size": kernel[-1],
  }


def _heads_of_64(width: int) -> dict[str, int]:
  """The number of heads, where it is the published rule."""
  return {} if width % 64 else {"num_heads": width // 64}


def _known(
  towers: Mapping[str, Mapping[str, Any]],
  module: type,
  fields: Mapping[str, Any],
) -> dict[str, Any]:
  """The other fields of the published tower of the same width and depth."""
  for tower in towers.values():
    whole: Any = module(**tower)
    if (whole.width, whole.depth) == (fields["width"], fields["depth"]):
      return dict(tower) | {"num_heads": whole.num_heads}
  return {}


def _shape(shapes: Shapes, key: str) -> tuple[int, ...]:
  if key not in shapes or not shapes[key]:
    raise ValueError(
      f"expected the key {key} in the checkpoint; it has "
      f"{_some(shapes)}. Is it one of another model?"
    )
  return tuple(shapes[key])


def _first(shapes: Shapes, *keys: str) -> int:
  """The first axis of the first key that is there."""
  there = [key for key in keys if key in shapes]
  return _shape(shapes, there[0] if there else keys[0])[0]


def _depth(shapes: Shapes, prefix: str) -> int:
  """The number of layers below a prefix."""
  pattern = re.compile(rf"{re.escape(prefix)}\.(\d+)\.")
  matches = [pattern.match(key) for key in shapes]
  layers = [int(match[1]) for match in matches if match]
  if not layers:
    raise ValueError(
      f"expected keys {prefix}.0.… in the checkpoint; it has "
      f"{_some(shapes)}. Is it one of another model?"
    )
  return max(layers) + 1


def _some(keys: Iterable[str]) -> str:
  keys = list(keys)
  return f"{', '.join(keys[:3])} and more" if keys else "no such keys at all"
