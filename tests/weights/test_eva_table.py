"""The table of EVA-CLIP's tower: published shapes, and the way back."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import EVA_CLIP, EvaVisionTransformer
from pmrl_jax.weights.eva import eva_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict
from pmrl_jax.weights.tables import Constant, Entry, prefixed

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"

# Of the public files, the buffers apart.
COUNTS = {
  "EVA01-CLIP-g-14": 1_012_588_928,
  "EVA02-CLIP-B-16": 86_263_040,
  "EVA02-CLIP-L-14": 304_105_152,
  "EVA02-CLIP-L-14-336": 304_432_832,
  "EVA02-CLIP-bigE-14": 4_350_556_928,
}


def full_size(module):
  """The state dict's arrays of a tower, none of which takes memory."""
  side = module.image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False), images
  )
  params = jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), shapes["params"]
  )
  return params, dict(to_state_dict(params, eva_table(module)))


def test_full_size_has_the_published_keys_and_shapes():
  _, tensors = full_size(EvaVisionTransformer())
  expected = {
    "cls_token": (1, 1, 1408),
    "pos_embed": (1, 257, 1408),
    "patch_embed.proj.weight": (1408, 3, 14, 14),
    "patch_embed.proj.bias": (1408,),
    "norm.weight": (1408,),
    "norm.bias": (1408,),
    "head.weight": (1024, 1408),
    "head.bias": (1024,),
  }
  for i in range(40):
    expected |= {
      f"blocks.{i}.norm1.weight": (1408,),
      f"blocks.{i}.norm1.bias": (1408,),
      f"blocks.{i}.attn.q_bias": (1408,),
      f"blocks.{i}.attn.v_bias": (1408,),
      f"blocks.{i}.attn.qkv.weight": (4224, 1408),
      f"blocks.{i}.attn.proj.weight": (1408, 1408),
      f"blocks.{i}.attn.proj.bias": (1408,),
      f"blocks.{i}.norm2.weight": (1408,),
      f"blocks.{i}.norm2.bias": (1408,),
      f"blocks.{i}.mlp.fc1.weight": (6144, 1408),
      f"blocks.{i}.mlp.fc1.bias": (6144,),
      f"blocks.{i}.mlp.fc2.weight": (1408, 6144),
      f"blocks.{i}.mlp.fc2.bias": (1408,),
    }
  assert {key: array.shape for key, array in tensors.items()} == expected


@pytest.mark.parametrize("name", EVA_CLIP)
def test_full_size_has_the_published_count(name):
  module = EvaVisionTransformer(**EVA_CLIP[name])
  params, tensors = full_size(module)
  count = sum(array.size for array in jax.tree.leaves(params))
  assert count == COUNTS[name]
  buffers = [key for key in tensors if ".freqs_" in key]
  assert count == sum(
    array.size for key, array in tensors.items() if key not in buffers
  )
  assert len(buffers) == (2 * (module.depth + 1) if module.rotary_side else 0)


CASES = {
  "vision_eva.npz param/visual.": {
    "image_size": 56,
    "width": 48,
    "num_heads": 4,
    "mlp_width": 209,
    "head_width": 16,
  },
  "vision_towers.npz eva02/param/": {
    "image_size": 24,
    "patch_size": 6,
    "width": 24,
    "num_heads": 2,
    "mlp_width": 20,
    "fused_qkv": False,
    "attention_norm": True,
    "mlp_norm": True,
    "swiglu": True,
    "rotary_side": 5,
    "head_width": 10,
  },
  "vision_towers.npz eva_post_norm/param/": {
    "image_size": 24,
    "patch_size": 6,
    "width": 24,
    "num_heads": 2,
    "mlp_width": 20,
    "post_norm": True,
    "head_width": 10,
  },
}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_the_same(case):
  file, prefix = case.split()
  with np.load(GOLDENS / file, allow_pickle=False) as arrays:
    tensors = {
      key.replace(prefix, "vision_encoder.visual."): arrays[key]
      for key in arrays
      if key.startswith(prefix)
    }
  module = EvaVisionTransformer(depth=2, **CASES[case])
  table = prefixed(eva_table(module), key="vision_encoder.visual.")
  loaded = to_params(tensors, table)
  assert loaded.missing == loaded.unexpected == loaded.unused == []
  back = dict(to_state_dict(loaded.params, table))
  constants = {line.key for line in table if isinstance(line, Constant)}
  assert set(back) == set(tensors) | constants
  for key, tensor in tensors.items():
    assert back[key].dtype == tensor.dtype
    np.testing.assert_array_equal(back[key], tensor)
  again = to_params(back, table).params
  jax.tree.map(np.testing.assert_array_equal, again, loaded.params)
  variables = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False),
    jax.ShapeDtypeStruct(
      (1, module.image_size, module.image_size, 3), np.float32
    ),
  )
  assert jax.tree.map(np.shape, loaded.params) == jax.tree.map(
    lambda x: x.shape, variables["params"]
  )


def test_buffers_of_another_image_size_are_passed_over():
  module = EvaVisionTransformer(**EVA_CLIP["EVA02-CLIP-L-14-336"])
  table = eva_table(module)
  entries = [line for line in table if not isinstance(line, Entry)]
  smaller = {"rope.freqs_cos": np.zeros((256, 64), np.float32)}
  loaded = to_params(smaller, entries)
  assert loaded.unexpected == loaded.missing == []
  back = dict(to_state_dict({}, entries))
  assert back["rope.freqs_cos"].shape == (576, 64)
  assert back["blocks.23.attn.rope.freqs_sin"].shape == (576, 64)
