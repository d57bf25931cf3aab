"""Files of the AST: every tensor has its place, every switch its meaning."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import AudioSpectrogramTransformer
from pmrl_jax.weights.ast import ast_from_config, ast_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict
from pmrl_jax.weights.tables import prefixed

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "ast.npz"


@pytest.fixture(scope="module", name="tiny")
def _tiny():
  with np.load(PATH, allow_pickle=False) as arrays:
    module = ast_from_config(json.loads(bytes(arrays["cfg/json"])))
    tensors = {
      key.removeprefix("param/"): arrays[key]
      for key in arrays
      if key.startswith("param/")
    }
  return module, tensors


def shapes_of(module):
  """The tree of shapes of the parameters, without making one."""
  variables = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.zeros((1, 64, 64)), train=False)
  )
  return jax.tree.map(lambda leaf: leaf.shape, variables["params"])


def test_a_state_dict_comes_back_unchanged(tiny):
  module, tensors = tiny
  loaded = to_params(tensors, ast_table(module))
  assert not loaded.missing and not loaded.unexpected
  assert jax.tree.map(np.shape, loaded.params) == shapes_of(module)
  back = dict(to_state_dict(loaded.params, ast_table(module)))
  assert set(back) == set(tensors)
  for key, x in back.items():
    assert x.dtype == tensors[key].dtype
    np.testing.assert_array_equal(x, tensors[key])


def test_the_file_of_a_classifier_is_read_through_a_prefix(tiny):
  module, tensors = tiny
  prefix = "audio_spectrogram_transformer."
  file = {prefix + key: x for key, x in tensors.items()}
  file["classifier.dense.bias"] = np.zeros(3)
  loaded = to_params(file, prefixed(ast_table(module), key=prefix))
  assert not loaded.missing
  assert loaded.unexpected == ["classifier.dense.bias"]


def test_the_full_model_has_the_published_tensors():
  def linear(key, rows, columns):
    return {f"{key}.weight": (rows, columns), f"{key}.bias": (rows,)}

  def norm(key):
    return {f"{key}.weight": (768,), f"{key}.bias": (768,)}

  patches = "embeddings.patch_embeddings.projection"
  expected = {
    "embeddings.cls_token": (1, 1, 768),
    "embeddings.distillation_token": (1, 1, 768),
    # 12 mel bands times 101 time spans.
    "embeddings.position_embeddings": (1, 2 + 12 * 101, 768),
    f"{patches}.weight": (768, 1, 16, 16),
    f"{patches}.bias": (768,),
    **norm("layernorm"),
  }
  for i in range(12):
    key = f"encoder.layer.{i}"
    for name in ("query", "key", "value"):
      expected |= linear(f"{key}.attention.attention.{name}", 768, 768)
    expected |= {
      **linear(f"{key}.attention.output.dense", 768, 768),
      **linear(f"{key}.intermediate.dense", 3072, 768),
      **linear(f"{key}.output.dense", 768, 3072),
      **norm(f"{key}.layernorm_before"),
      **norm(f"{key}.layernorm_after"),
    }
  module = AudioSpectrogramTransformer()
  # Views of one number.
  params = jax.tree.map(
    lambda shape: np.broadcast_to(np.float32(0), shape),
    shapes_of(module),
    is_leaf=lambda shape: isinstance(shape, tuple),
  )
  assert expected == {
    key: x.shape for key, x in to_state_dict(params, ast_table(module))
  }
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  assert count == 86187264


def test_a_silent_config_gives_the_published_model():
  assert ast_from_config({}) == AudioSpectrogramTransformer()
  module = ast_from_config({"max_length": 512}, dtype=jnp.bfloat16)
  assert module.num_frames == 512 and module.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  ("switch", "value"),
  [("hidden_act", "relu"), ("qkv_bias", False), ("layer_norm_eps", 1e-5)],
)
def test_a_switch_that_is_not_supported_is_explained(switch, value):
  with pytest.raises(ValueError, match=f"{switch} = .*, got {value!r}"):
    ast_from_config({switch: value})
