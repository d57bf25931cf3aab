"""The AST: the values of `transformers`, other sizes, random in training."""

import dataclasses
import functools
import importlib.util
import json
import pathlib
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import AudioSpectrogramTransformer
from pmrl_jax.encoders.ast import resize_axis
from pmrl_jax.weights.ast import ast_from_config, ast_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

FOLDER = pathlib.Path(__file__).parents[1] / "goldens"
KEY = jax.random.key(0)


@pytest.fixture(scope="module", name="goldens")
def _goldens():
  with np.load(FOLDER / "ast.npz", allow_pickle=False) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module", name="model")
def _model(goldens):
  """The golden module and its variables."""
  module = ast_from_config(json.loads(bytes(goldens["cfg/json"])))
  tensors = {
    key.removeprefix("param/"): x
    for key, x in goldens.items()
    if key.startswith("param/")
  }
  return module, {"params": to_params(tensors, ast_table(module)).params}


@functools.partial(jax.jit, static_argnums=0)
def encode(module, variables, x):
  return module.apply(variables, x, train=False)


def assert_near(value, expected, tolerance=1e-4, scale=None):
  """Within a tolerance relative to the scale of the expected array."""
  scale = np.abs(expected).max() if scale is None else scale
  np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * scale)


def test_outputs_and_traces_are_those_of_the_library(goldens, model):
  module, variables = model

  @jax.jit
  def apply(x):
    return module.apply(variables, x, train=False, mutable=["intermediates"])

  tokens, state = apply(goldens["in/spectrograms"])
  assert_near(tokens, goldens["out/tokens"])
  assert_near(tokens[:, :2].mean(axis=1), goldens["out/pooled"])
  seen = state["intermediates"]
  assert_near(seen["embeddings_out"][0], goldens["out/trace/embeddings"])
  for i, layer in enumerate(seen["blocks"]["block_out"][0]):
    assert_near(layer, goldens[f"out/trace/layer{i}"])


@pytest.mark.parametrize("size", ["short", "large", "mixed"])
def test_positions_follow_the_size_of_the_spectrogram(goldens, model, size):
  module, variables = model
  tokens = encode(module, variables, goldens[f"in/{size}"])
  assert_near(tokens, goldens[f"out/{size}"])


def test_remat_and_loop_give_the_gradients_of_the_library(goldens, model):
  module, variables = model
  expected = {
    key.removeprefix("grad/"): x
    for key, x in goldens.items()
    if key.startswith("grad/")
  }
  for fields in (
    {},
    {"remat": "full"},
    {"remat": "dots", "scan_layers": False},
  ):
    other = dataclasses.replace(module, **fields)

    @jax.jit
    @jax.grad
    def gradient(variables, module=other):
      tokens = module.apply(variables, goldens["in/spectrograms"], train=False)
      return (tokens * goldens["in/cotangent"]).sum()

    computed = dict(
      to_state_dict(gradient(variables)["params"], ast_table(module))
    )
    assert set(computed) == set(expected)
    for key, x in expected.items():
      # The softmax does not see the keys' bias: only rounding is there.
      of = key.replace("attention.key.bias", "attention.key.weight")
      assert_near(computed[key], x, scale=np.abs(expected[of]).max())


@pytest.mark.slow
def test_the_library_still_gives_the_golden_values(goldens, tmp_path):
  for name in ("torch", "transformers", "safetensors"):
    if importlib.util.find_spec(name) is None:
      pytest.skip(f"{name} is not installed: nothing to compare with")
  path = tmp_path / "ast.npz"
  program = [sys.executable, FOLDER / "make_ast.py", path]
  subprocess.run(program, check=True, capture_output=True)
  with np.load(path, allow_pickle=False) as again:
    assert set(again) == set(goldens)
    for key, x in goldens.items():
      if key.startswith(("cfg/", "in/", "param/")):
        np.testing.assert_array_equal(again[key], x)
      else:
        assert_near(again[key], x, 1e-5, max(np.abs(x).max(), 0.1))


def test_evaluation_is_deterministic_and_training_random_by_key(goldens, model):
  module, variables = model
  x = goldens["in/spectrograms"]
  dropping = dataclasses.replace(
    module, dropout_rate=0.2, attention_dropout_rate=0.2
  )

  @jax.jit
  def train(key):
    return dropping.apply(variables, x, train=True, rngs={"dropout": key})

  a, b = train(KEY), train(jax.random.key(1))
  chex.assert_trees_all_equal(a, train(KEY))
  chex.assert_tree_all_finite((a, b))
  assert jnp.abs(a - b).max() > 1e-2
  assert_near(encode(dropping, variables, x), goldens["out/tokens"])


def test_bfloat16_computes_close_to_float32_with_float32_parameters(
  goldens, model
):
  module, variables = model
  half = dataclasses.replace(module, dtype=jnp.bfloat16)
  x = goldens["in/spectrograms"]
  tokens = encode(half, variables, x)
  assert tokens.dtype == jnp.bfloat16
  shapes = jax.eval_shape(lambda: half.init(KEY, x, train=False))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
  assert_near(tokens.astype(jnp.float32), goldens["out/tokens"], 0.05)


def test_an_axis_is_cut_in_the_middle_or_stretched():
  line = jnp.arange(5.0)
  np.testing.assert_array_equal(resize_axis(line, 0, 2), [1, 2])
  np.testing.assert_array_equal(resize_axis(line, 0, 3), [1, 2, 3])
  np.testing.assert_allclose(
    resize_axis(line[:2], 0, 4), [0, 0.25, 0.75, 1], atol=1e-6
  )


@pytest.mark.parametrize(
  ("fields", "shape", "message"),
  [
    ({}, (2, 1, 40, 18), r"\[batch, time, mel\], got shape \(2, 1, 40, 18\)"),
    ({}, (2, 40, 7), "a patch of 8x8, got 40 frames and 7 mel bins"),
    ({"num_frames": 7}, (2, 40, 18), "num_frames and num_mels must hold"),
    ({"num_heads": 3}, (2, 40, 18), "width 16 and 3 heads"),
    ({"remat": "all"}, (2, 40, 18), "remat must be one of"),
  ],
)
def test_what_cannot_be_encoded_is_explained(model, fields, shape, message):
  module = dataclasses.replace(model[0], **fields)
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(lambda: module.init(KEY, jnp.zeros(shape), train=False))


def test_initial_weights_have_the_published_scale():
  module = AudioSpectrogramTransformer(
    depth=1, width=64, num_heads=2, mlp_width=64, num_frames=96
  )
  x = np.zeros((1, 16, 16), np.float32)
  init = jax.jit(lambda: module.init(KEY, x, train=False))
  params = init()["params"]
  leaves = jax.tree.leaves_with_path(params)
  for path, leaf in leaves:
    if path[-1].key not in ("bias", "scale"):
      np.testing.assert_allclose(leaf.std(), 0.02, rtol=0.3)
    else:
      assert (leaf == (path[-1].key == "scale")).all()
