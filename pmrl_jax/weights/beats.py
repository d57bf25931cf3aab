"""BEATs: the published files and what is what in them."""

from collections.abc import Mapping
from typing import Any

from pmrl_jax.encoders.beats import Beats
from pmrl_jax.weights.configs import module_fields
from pmrl_jax.weights.tables import (
  CONV_1D,
  Entry,
  conv_2d,
  dense,
  layer_norm,
  stacked,
)

# {switch of a file: (field of the module, value where the file is silent)}.
_FIELDS = {
  "encoder_layers": ("depth", 12),
  "encoder_embed_dim": ("width", 768),
  "encoder_attention_heads": ("num_heads", 12),
  "encoder_ffn_embed_dim": ("mlp_width", 3072),
  "input_patch_size": ("patch_size", None),
  "embed_dim": ("patch_width", 512),
  "conv_bias": ("patch_bias", False),
  "conv_pos": ("conv_kernel", 128),
  "conv_pos_groups": ("conv_groups", 16),
  "num_buckets": ("num_buckets", 320),
  "max_distance": ("max_distance", 1280),
  "deep_norm": ("deep_norm", False),
  "layer_wise_gradient_decay_ratio": ("gradient_decay", 1.0),
  "encoder_layerdrop": ("layerdrop_rate", 0.0),
  "dropout": ("dropout_rate", 0.1),
  "attention_dropout": ("attention_dropout_rate", 0.1),
  "activation_dropout": ("activation_dropout_rate", 0.0),
  "dropout_input": ("input_dropout_rate", 0.0),
}

# {switch of a file: (the one supported value, value where it is silent)}.
_FIXED = {
  "activation_fn": ("gelu", "gelu"),
  "layer_norm_first": (False, False),
  "relative_position_embedding": (True, False),
  "gru_rel_pos": (True, False),
}


def beats_from_config(config: Mapping[str, Any], **fields: Any) -> Beats:
  """Returns the module for a BEATs file, `{"cfg": config, "model": tensors}`.

  The classifier of a finetuned file is no part of the module: its keys
  (`predictor.*`) are in no table.

  Args:
    config: The switches of the file; those that say nothing about the encoder
      are ignored.
    **fields: Further fields of `Beats`, such as `dtype` and `remat`; they win
      over those of the file.

  Returns:
    The module.

  Raises:
    ValueError: If a switch has a value that is not supported, or the patch
      size is missing.
    TypeError: If a field does not exist.
  """
  size = config.get("input_patch_size")
  if not isinstance(size, int) or size < 1:
    raise ValueError(
      "the config must have input_patch_size, the side of a patch in frames "
      f"and mel bins (16 in the published files), got {size!r}; hand in the "
      "entry 'cfg' of the file"
    )
  return Beats(
    **module_fields(
      config, Beats, fields=_FIELDS, fixed=_FIXED, overrides=fields
    )
  )


def beats_table(module: Beats) -> list[Entry]:
  """What is what in a state dict of BEATs.

  Args:
    module: The encoder; its fields say which tensors there are.

  Returns:
    The table, its keys those of the entry `model` of a published file.
  """
  projection = dense("post_extract_proj", "patch_projection")
  return [
    *conv_2d("patch_embedding", "patch_embedding", bias=module.patch_bias),
    *layer_norm("layer_norm", "patch_norm"),
    *(projection if module.patch_width != module.width else []),
    Entry("encoder.pos_conv.0.bias", "positions/bias"),
    Entry("encoder.pos_conv.0.weight_g", "positions/g", CONV_1D),
    Entry("encoder.pos_conv.0.weight_v", "positions/v", CONV_1D),
    *layer_norm("encoder.layer_norm", "encoder_norm"),
    *_block_table(module.depth),
  ]


def _block_table(depth: int) -> list[Entry]:
  """The entries of the blocks."""
  key, path = "encoder.layers.{layer}", "blocks"
  attention, to = f"{key}.self_attn", f"{path}/attention"
  block = [
    # The one table of all layers, which every layer lists as its own.
    Entry(
      f"{attention}.relative_attention_bias.weight",
      "relative_bias",
      repeated=True,
    ),
    Entry(f"{attention}.grep_a", f"{to}/gate_scale"),
    *dense(f"{attention}.grep_linear", f"{to}/gate"),
    *dense(f"{attention}.q_proj", f"{to}/query"),
    *dense(f"{attention}.k_proj", f"{to}/key"),
    *dense(f"{attention}.v_proj", f"{to}/value"),
    *dense(f"{attention}.out_proj", f"{to}/out"),
    *layer_norm(f"{key}.self_attn_layer_norm", f"{path}/attention_norm"),
    *dense(f"{key}.fc1", f"{path}/mlp_in"),
    *dense(f"{key}.fc2", f"{path}/mlp_out"),
    *layer_norm(f"{key}.final_layer_norm", f"{path}/mlp_norm"),
  ]
  return stacked(block, depth)
