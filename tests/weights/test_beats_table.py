"""BEATs files: every tensor has its place, and every switch its meaning."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import Beats
from pmrl_jax.weights.beats import beats_from_config, beats_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "audio_beats.npz"

# The config of the published BEATs_iter3+ (AS2M), with an entry that says
# nothing about the encoder.
PUBLISHED = {
  "encoder_layers": 12,
  "encoder_embed_dim": 768,
  "encoder_ffn_embed_dim": 3072,
  "encoder_attention_heads": 12,
  "activation_fn": "gelu",
  "layer_norm_first": False,
  "deep_norm": True,
  "conv_bias": False,
  "conv_pos": 128,
  "conv_pos_groups": 16,
  "relative_position_embedding": True,
  "num_buckets": 320,
  "max_distance": 800,
  "gru_rel_pos": True,
  "input_patch_size": 16,
  "embed_dim": 512,
  "layer_wise_gradient_decay_ratio": 0.6,
  "encoder_layerdrop": 0.05,
  "dropout": 0.0,
  "attention_dropout": 0.0,
  "activation_dropout": 0.0,
  "dropout_input": 0.0,
  "finetuned_model": False,
  "predictor_class": 527,
}


@pytest.fixture(scope="module", name="tiny")
def _tiny():
  with np.load(PATH, allow_pickle=False) as arrays:
    module = beats_from_config(json.loads(bytes(arrays["cfg/json"])))
    tensors = {
      key.removeprefix("param/"): arrays[key]
      for key in arrays
      if key.startswith("param/")
    }
  return module, tensors


def shapes_of(module):
  """Key and shape of every tensor of a module, without making one."""
  variables = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), jnp.zeros((1, 1024, 64)), train=False
    )
  )
  # Views of one number.
  params = jax.tree.map(
    lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
    variables["params"],
  )
  shapes = {
    key: x.shape for key, x in to_state_dict(params, beats_table(module))
  }
  return shapes, sum(leaf.size for leaf in jax.tree.leaves(params))


def test_a_state_dict_comes_back_unchanged(tiny):
  module, tensors = tiny
  loaded = to_params(tensors, beats_table(module))
  assert not loaded.missing and not loaded.unexpected
  back = dict(to_state_dict(loaded.params, beats_table(module)))
  assert set(back) == set(tensors)
  for key, x in back.items():
    assert x.dtype == tensors[key].dtype
    np.testing.assert_array_equal(x, tensors[key])


def test_parameters_are_those_of_the_module(tiny):
  module, tensors = tiny
  params = to_params(tensors, beats_table(module)).params
  variables = jax.eval_shape(
    lambda: module.init(
      jax.random.key(0), jnp.zeros((1, 1024, 64)), train=False
    )
  )
  assert jax.tree.map(np.shape, params) == jax.tree.map(
    lambda leaf: leaf.shape, variables["params"]
  )


def test_the_full_model_has_the_published_tensors():
  def linear(key, rows, columns):
    return {f"{key}.weight": (rows, columns), f"{key}.bias": (rows,)}

  def norm(key, width):
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}

  expected = {
    "patch_embedding.weight": (512, 1, 16, 16),
    **norm("layer_norm", 512),
    **linear("post_extract_proj", 768, 512),
    "encoder.pos_conv.0.bias": (768,),
    "encoder.pos_conv.0.weight_g": (1, 1, 128),
    "encoder.pos_conv.0.weight_v": (768, 48, 128),
    **norm("encoder.layer_norm", 768),
  }
  for i in range(12):
    key = f"encoder.layers.{i}"
    for name in "qkv":
      expected |= linear(f"{key}.self_attn.{name}_proj", 768, 768)
    expected |= {
      **linear(f"{key}.self_attn.out_proj", 768, 768),
      f"{key}.self_attn.grep_a": (1, 12, 1, 1),
      **linear(f"{key}.self_attn.grep_linear", 8, 64),
      f"{key}.self_attn.relative_attention_bias.weight": (320, 12),
      **norm(f"{key}.self_attn_layer_norm", 768),
      **norm(f"{key}.final_layer_norm", 768),
      **linear(f"{key}.fc1", 3072, 768),
      **linear(f"{key}.fc2", 768, 3072),
    }
  shapes, count = shapes_of(Beats())
  assert shapes == expected
  # The bias table counts once.
  assert count == 11 * -320 * 12 + sum(
    int(np.prod(shape)) for shape in expected.values()
  )
  assert round(count / 1e6, 1) == 90.3


def test_patches_have_a_bias_and_a_projection_only_where_needed():
  shapes, _ = shapes_of(Beats(depth=1, patch_bias=True, patch_width=768))
  assert shapes["patch_embedding.bias"] == (768,)
  assert "post_extract_proj.weight" not in shapes


def test_layers_must_share_their_bias_table(tiny):
  module, tensors = tiny
  key = "encoder.layers.1.self_attn.relative_attention_bias.weight"
  with pytest.raises(ValueError, match=f"{key} should be a copy"):
    to_params(tensors | {key: tensors[key] + 1}, beats_table(module))


def test_the_published_config_gives_the_defaults():
  assert beats_from_config(PUBLISHED) == Beats()


def test_a_silent_config_means_the_defaults_of_the_published_code():
  module = beats_from_config(
    {
      "input_patch_size": 16,
      "relative_position_embedding": True,
      "gru_rel_pos": True,
    },
    dtype=jnp.bfloat16,
    dropout_rate=0.2,
  )
  assert not module.deep_norm and module.max_distance == 1280
  assert module.gradient_decay == 1 and module.attention_dropout_rate == 0.1
  assert module.dtype == jnp.bfloat16 and module.dropout_rate == 0.2


@pytest.mark.parametrize(
  ("switch", "value", "message"),
  [
    ("layer_norm_first", True, "layer_norm_first = False, got True"),
    ("activation_fn", "glu", "activation_fn = 'gelu', got 'glu'"),
    ("gru_rel_pos", False, "gru_rel_pos = True, got False"),
    ("input_patch_size", -1, "input_patch_size.*got -1"),
  ],
)
def test_a_switch_that_is_not_supported_is_explained(switch, value, message):
  with pytest.raises(ValueError, match=message):
    beats_from_config(PUBLISHED | {switch: value})


def test_a_file_instead_of_its_config_is_explained():
  with pytest.raises(ValueError, match="entry 'cfg' of the file"):
    beats_from_config({"cfg": PUBLISHED, "model": {}})
  with pytest.raises(ValueError, match="stands for no entry at all"):
    beats_from_config({"input_patch_size": 16})


def test_a_field_that_does_not_exist_is_explained():
  with pytest.raises(TypeError, match=r"no fields \['dropout'\]"):
    beats_from_config(PUBLISHED, dropout=0.1)
