"""The Audio Spectrogram Transformer: what is what in its published files."""

from collections.abc import Mapping
from typing import Any

from pmrl_jax.encoders.ast import AudioSpectrogramTransformer
from pmrl_jax.weights.configs import module_fields
from pmrl_jax.weights.tables import Entry, conv_2d, dense, layer_norm, stacked

# {switch of config.json: (field of the module, value where it is silent)}.
_FIELDS = {
  "num_hidden_layers": ("depth", 12),
  "hidden_size": ("width", 768),
  "num_attention_heads": ("num_heads", 12),
  "intermediate_size": ("mlp_width", 3072),
  "patch_size": ("patch_size", 16),
  "time_stride": ("time_stride", 10),
  "frequency_stride": ("mel_stride", 10),
  "max_length": ("num_frames", 1024),
  "num_mel_bins": ("num_mels", 128),
  "hidden_dropout_prob": ("dropout_rate", 0.0),
  "attention_probs_dropout_prob": ("attention_dropout_rate", 0.0),
}

# {switch of config.json: (the supported value, value where it is silent)}.
_FIXED = {
  "hidden_act": ("gelu", "gelu"),
  "layer_norm_eps": (1e-12, 1e-12),
  "qkv_bias": (True, True),
}


def ast_from_config(
  config: Mapping[str, Any], **fields: Any
) -> AudioSpectrogramTransformer:
  """Returns the module for the `config.json` beside a published file.

  Args:
    config: The switches; those that say nothing about the encoder are
      ignored.
    **fields: Further fields of the module, such as `dtype` and `remat`; they
      win over those of the file.

  Returns:
    The module.

  Raises:
    ValueError: If a switch has a value that is not supported.
    TypeError: If a field does not exist.
  """
  return AudioSpectrogramTransformer(
    **module_fields(
      config,
      AudioSpectrogramTransformer,
      fields=_FIELDS,
      fixed=_FIXED,
      overrides=fields,
    )
  )


def ast_table(module: AudioSpectrogramTransformer) -> list[Entry]:
  """What is what in a state dict of the transformer.

  Args:
    module: The encoder; its fields say which tensors there are.

  Returns:
    The table. In the file of a classifier the keys lie below
    `audio_spectrogram_transformer.` (see `prefixed`), and those of the
    classifier (`classifier.*`) are in no table.
  """
  key, path = "encoder.layer.{layer}", "blocks"
  block = [
    *layer_norm(f"{key}.layernorm_before", f"{path}/attention_norm"),
    *dense(f"{key}.attention.attention.query", f"{path}/query"),
    *dense(f"{key}.attention.attention.key", f"{path}/key"),
    *dense(f"{key}.attention.attention.value", f"{path}/value"),
    *dense(f"{key}.attention.output.dense", f"{path}/out"),
    *layer_norm(f"{key}.layernorm_after", f"{path}/mlp_norm"),
    *dense(f"{key}.intermediate.dense", f"{path}/mlp_in"),
    *dense(f"{key}.output.dense", f"{path}/mlp_out"),
  ]
  return [
    Entry("embeddings.cls_token", "class_token"),
    Entry("embeddings.distillation_token", "distillation_token"),
    Entry("embeddings.position_embeddings", "positions"),
    *conv_2d("embeddings.patch_embeddings.projection", "patch_embedding"),
    *stacked(block, module.depth),
    *layer_norm("layernorm", "final_norm"),
  ]
