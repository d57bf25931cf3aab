"""The golden values of timm and open_clip, made again."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import (
  CLIP_VIT,
  EVA_CLIP,
  ClipVisionTransformer,
  EvaVisionTransformer,
)
from pmrl_jax.weights.clip_vit import clip_vit_table
from pmrl_jax.weights.eva import eva_table
from pmrl_jax.weights.state_dict import to_state_dict

HERE = pathlib.Path(__file__).parent

pytestmark = [
  pytest.mark.slow,
  pytest.mark.filterwarnings("ignore"),  # those of the other libraries
]


@pytest.fixture(name="oracle", scope="module")
def _oracle():
  for library in ("torch", "timm", "open_clip"):
    pytest.importorskip(library, reason=f"{library} makes the golden values")
  spec = importlib.util.spec_from_file_location(
    "make_vision", HERE / "make_vision.py"
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_golden_values_are_made_again(oracle):
  made = oracle.golden()
  with np.load(HERE / "vision_towers.npz", allow_pickle=False) as golden:
    assert set(golden) == set(made)
    for key in golden:
      scale = max(np.abs(golden[key]).max(), 1e-6)
      np.testing.assert_allclose(made[key], golden[key], atol=1e-5 * scale)


@pytest.mark.parametrize("name", [*EVA_CLIP, *CLIP_VIT])
def test_full_size_towers_have_the_keys_and_shapes_of_the_libraries(
  oracle, name
):
  if name in EVA_CLIP:
    module = EvaVisionTransformer(**EVA_CLIP[name])
    table = eva_table(module)
  else:
    module = ClipVisionTransformer(**CLIP_VIT[name])
    table = clip_vit_table(module)
  side = module.image_size
  images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
  shapes = jax.eval_shape(
    lambda x: module.init(jax.random.key(0), x, train=False), images
  )
  params = jax.tree.map(
    lambda x: np.broadcast_to(np.float32(0), x.shape), shapes["params"]
  )
  actual = {
    key: list(array.shape)
    for key, array in to_state_dict(params, table)
    if ".freqs_" not in key
  }
  assert actual == oracle.full_size_shapes(name)
