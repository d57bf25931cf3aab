"""The table of CLIP's tower: published shapes, and the way back."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import CLIP_VIT, ClipVisionTransformer
from pmrl_jax.weights.clip_vit import clip_vit_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "vision_towers.npz"

# Of the public files.
COUNTS = {
  "ViT-B-32": 87_849_216,
  "ViT-B-16": 86_192_640,
  "ViT-L-14": 303_966_208,
  "ViT-L-14-336": 304_293_888,
  "ViT-H-14": 632_076_800,
  "ViT-bigG-14": 1_844_907_264,
}


def full_size(module):
  """Parameters that take no memory."""
  side = module.image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False), images
  )
  return jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), shapes["params"]
  )


def test_full_size_has_the_published_keys_and_shapes():
  module = ClipVisionTransformer()
  tensors = dict(to_state_dict(full_size(module), clip_vit_table(module)))
  expected = {
    "class_embedding": (1024,),
    "positional_embedding": (257, 1024),
    "proj": (1024, 768),
    "conv1.weight": (1024, 3, 14, 14),
    "ln_pre.weight": (1024,),
    "ln_pre.bias": (1024,),
    "ln_post.weight": (1024,),
    "ln_post.bias": (1024,),
  }
  for i in range(24):
    block = f"transformer.resblocks.{i}"
    expected |= {
      f"{block}.ln_1.weight": (1024,),
      f"{block}.ln_1.bias": (1024,),
      f"{block}.attn.in_proj_weight": (3072, 1024),
      f"{block}.attn.in_proj_bias": (3072,),
      f"{block}.attn.out_proj.weight": (1024, 1024),
      f"{block}.attn.out_proj.bias": (1024,),
      f"{block}.ln_2.weight": (1024,),
      f"{block}.ln_2.bias": (1024,),
      f"{block}.mlp.c_fc.weight": (4096, 1024),
      f"{block}.mlp.c_fc.bias": (4096,),
      f"{block}.mlp.c_proj.weight": (1024, 4096),
      f"{block}.mlp.c_proj.bias": (1024,),
    }
  assert {key: array.shape for key, array in tensors.items()} == expected


@pytest.mark.parametrize("name", CLIP_VIT)
def test_full_size_has_the_published_count(name):
  params = full_size(ClipVisionTransformer(**CLIP_VIT[name]))
  assert sum(x.size for x in jax.tree.leaves(params)) == COUNTS[name]


def test_there_and_back_is_the_same():
  prefix = "clip/param/"
  with np.load(GOLDEN, allow_pickle=False) as arrays:
    tensors = {
      key.removeprefix(prefix): arrays[key]
      for key in arrays
      if key.startswith(prefix)
    }
  table = clip_vit_table(ClipVisionTransformer(depth=2))
  loaded = to_params(tensors, table)
  assert loaded.missing == loaded.unexpected == loaded.unused == []
  back = dict(to_state_dict(loaded.params, table))
  assert set(back) == set(tensors)
  for key, tensor in tensors.items():
    assert back[key].dtype == tensor.dtype
    np.testing.assert_array_equal(back[key], tensor)
  again = to_params(back, table).params
  jax.tree.map(np.testing.assert_array_equal, again, loaded.params)
