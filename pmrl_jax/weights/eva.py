"""The visual tower of EVA-CLIP: its keys and parameters."""

from pmrl_jax.encoders.eva import EvaVisionTransformer
from pmrl_jax.encoders.rotary import rotary_table
from pmrl_jax.weights.tables import (
  LINEAR,
  Constant,
  Entry,
  Line,
  conv_2d,
  dense,
  layer_norm,
  stacked,
)


def eva_table(module: EvaVisionTransformer) -> list[Line]:
  """The tower's table, with the keys of the EVA-CLIP repository.

  In EVA-CLIP files all keys begin with "visual.", in PMRL's with
  "vision_encoder.visual."; see `prefixed`.

  Args:
    module: The tower.
  """
  table: list[Line] = [
    Entry("cls_token", "embeddings/class_token"),
    Entry("pos_embed", "embeddings/positions"),
    *conv_2d("patch_embed.proj", "embeddings/projection"),
    *_rotary_buffers(module),
    *stacked(_block(module), module.depth),
    *layer_norm("norm", "norm"),
  ]
  return table + (dense("head", "head") if module.head_width else [])


def _block(module: EvaVisionTransformer) -> list[Entry]:
  attention, mlp = "blocks.{layer}.attn", "blocks.{layer}.mlp"
  table = [
    *layer_norm("blocks.{layer}.norm1", "blocks/attention_norm"),
    *dense(f"{attention}.proj", "blocks/attention/out"),
    *layer_norm("blocks.{layer}.norm2", "blocks/mlp_norm"),
  ]
  if module.fused_qkv:
    table += [
      Entry(f"{attention}.q_bias", "blocks/attention/query_bias"),
      Entry(f"{attention}.v_bias", "blocks/attention/value_bias"),
      Entry(f"{attention}.qkv.weight", "blocks/attention/qkv/kernel", LINEAR),
    ]
  else:
    table += [
      Entry(f"{attention}.q_bias", "blocks/attention/query/bias"),
      Entry(f"{attention}.v_bias", "blocks/attention/value/bias"),
      *dense(f"{attention}.q_proj", "blocks/attention/query", bias=False),
      *dense(f"{attention}.k_proj", "blocks/attention/key", bias=False),
      *dense(f"{attention}.v_proj", "blocks/attention/value", bias=False),
    ]
  if module.attention_norm:
    table += layer_norm(f"{attention}.inner_attn_ln", "blocks/attention/norm")
  if module.mlp_norm:
    table += layer_norm(f"{mlp}.ffn_ln", "blocks/mlp/norm")
  if module.swiglu:
    return table + [
      *dense(f"{mlp}.w1", "blocks/mlp/gate"),
      *dense(f"{mlp}.w2", "blocks/mlp/in"),
      *dense(f"{mlp}.w3", "blocks/mlp/out"),
    ]
  return table + [
    *dense(f"{mlp}.fc1", "blocks/mlp/in"),
    *dense(f"{mlp}.fc2", "blocks/mlp/out"),
  ]


def _rotary_buffers(module: EvaVisionTransformer) -> list[Constant]:
  """The turns of the patches, which the file repeats for every block."""
  if module.rotary_side is None:
    return []
  buffers = rotary_table(
    (module.image_size // module.patch_size,) * 2,
    module.rotary_side,
    module.width // module.num_heads,
  )
  owners = ["rope", *(f"blocks.{i}.attn.rope" for i in range(module.depth))]
  return [
    Constant(f"{owner}.{name}", buffer, checked=False)
    for owner in owners
    for name, buffer in zip(("freqs_cos", "freqs_sin"), buffers)
  ]
