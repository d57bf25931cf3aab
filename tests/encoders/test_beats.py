"""BEATs: the published values, any length, random only in training."""

import dataclasses
import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import Beats, positional_convolution
from pmrl_jax.encoders.beats import scale_gradient
from pmrl_jax.encoders.relative_attention import relative_buckets
from pmrl_jax.weights.beats import beats_from_config, beats_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "audio_beats.npz"
KEY = jax.random.key(0)

TINY = Beats(
  depth=2,
  width=16,
  num_heads=2,
  mlp_width=24,
  patch_size=4,
  patch_width=12,
  conv_kernel=6,
  conv_groups=2,
  num_buckets=8,
  max_distance=5,
)


@pytest.fixture(scope="module", name="goldens")
def _goldens():
  with np.load(PATH, allow_pickle=False) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module", name="published")
def _published(goldens):
  """The golden module, its parameters, and clips `[batch * clip, ...]`."""
  module = beats_from_config(json.loads(bytes(goldens["cfg/json"])))
  tensors = {
    key.removeprefix("param/"): x
    for key, x in goldens.items()
    if key.startswith("param/")
  }
  params = to_params(tensors, beats_table(module)).params
  clips = goldens["in/audio_spectrograms"]
  return module, params, clips.reshape(-1, *clips.shape[2:])


@pytest.fixture(scope="module", name="tiny")
def _tiny():
  """Variables of `TINY`, all of them random, and 2 clips of 24 tokens."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 48, 8)).astype(np.float32)
  shapes = jax.eval_shape(lambda: TINY.init(KEY, x, train=False))
  return jax.tree.map(
    lambda leaf: rng.normal(scale=0.3, size=leaf.shape).astype(np.float32),
    shapes,
  ), x


def replaced(**fields):
  return dataclasses.replace(TINY, **fields)


@functools.partial(jax.jit, static_argnums=0)
def encode(module, variables, x):
  return module.apply(variables, x, train=False)


def assert_near(value, expected, tolerance=1e-4, scale=None):
  """Within a tolerance relative to the scale of the expected array."""
  scale = np.abs(expected).max() if scale is None else scale
  np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * scale)


def test_outputs_and_traces_are_the_published_ones(goldens, published):
  module, params, clips = published

  def apply(params, clips):
    return module.apply(
      {"params": params}, clips, train=False, mutable=["intermediates"]
    )

  tokens, state = jax.jit(apply)(params, clips)
  expected = goldens["out/forward_audio_encoder"]
  tokens = tokens.reshape(expected.shape)
  assert_near(tokens, expected)
  pooled = tokens.mean(axis=2).mean(axis=1)
  assert_near(pooled, goldens["out/pool_audio_for_contra"])

  seen = state["intermediates"]
  assert_near(
    seen["relative_bias_out"][0][0, :, 0],
    goldens["out/relative_bias_head_first_row"],
  )
  assert_near(
    seen["positions"]["kernel"][0].transpose(2, 1, 0),
    goldens["out/pos_conv_effective_weight"],
  )
  # Traces are those of the first clip.
  first = {
    name: seen[f"{mine}_out"][0][:1]
    for name, mine in (
      ("patch_ln", "patch_norm"),
      ("post_extract_proj", "patch_projection"),
      ("pos_conv", "positions"),
      ("encoder_ln", "encoder_norm"),
    )
  }
  first["patch_conv"] = seen["patch_embedding_out"][0][:1].transpose(0, 3, 1, 2)
  for i in range(module.depth):
    first[f"layer{i}_attn"] = seen["blocks"]["attention_out"][0][i, :1]
    first[f"layer{i}"] = seen["blocks"]["block_out"][0][i, :1]
  traces = {key for key in goldens if key.startswith("out/trace/")}
  assert len(traces) == 10
  for key in traces:
    assert_near(first[key.removeprefix("out/trace/")], goldens[key])


def test_gradients_are_the_published_ones_with_their_decay(goldens, published):
  module, params, clips = published
  b, m = goldens["in/audio_spectrograms"].shape[:2]

  def total(params):
    tokens = module.apply({"params": params}, clips, train=False)
    pooled = tokens.reshape(b, m, *tokens.shape[1:]).mean(axis=(1, 2))
    return (pooled * goldens["in/pooled_cotangent"]).sum()

  gradient = dict(
    to_state_dict(jax.jit(jax.grad(total))(params), beats_table(module))
  )
  expected = {
    key.removeprefix("grad/"): x
    for key, x in goldens.items()
    if key.startswith("grad/")
  }
  # The one bias table is listed under the first layer only.
  bias = "self_attn.relative_attention_bias.weight"
  assert set(gradient) - set(expected) == {
    f"encoder.layers.{i}.{bias}" for i in (1, 2)
  }
  for key, x in expected.items():
    # The softmax does not see the keys' bias: nothing but rounding is there.
    of = key.replace("k_proj.bias", "k_proj.weight")
    assert_near(gradient[key], x, scale=np.abs(expected[of]).max())


def test_buckets_are_the_published_ones(goldens):
  np.testing.assert_array_equal(
    relative_buckets(256, 320, 800), goldens["out/relative_buckets"]
  )


def test_buckets_follow_the_formula_at_any_length():
  length = 1500
  buckets = relative_buckets(length, 320, 800)
  distance = np.arange(1, length)
  exact = 80 + 80 * np.log(np.maximum(distance, 80) / 80) / np.log(10)
  # The formula in float64, where a border of float32 is not in doubt.
  clear = (np.abs(exact - np.round(exact)) > 1e-4) | (distance <= 80)
  expected = np.minimum(np.where(distance < 80, distance, exact), 159)
  expected = expected.astype(int)
  np.testing.assert_array_equal(buckets[0, 1:][clear], expected[clear] + 160)
  np.testing.assert_array_equal(buckets[1:, 0][clear], expected[clear])
  np.testing.assert_array_equal(buckets[:256, :256], buckets[-256:, -256:])
  assert (np.diagonal(buckets) == 0).all()


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 123, 9)])
def test_a_recording_may_have_any_length(tiny, shape):
  variables, _ = tiny
  x = jax.random.normal(KEY, shape)
  tokens = encode(TINY, variables, x)
  _, time, mel = shape
  chex.assert_shape(tokens, (shape[0], (time // 4) * (mel // 4), 16))
  chex.assert_tree_all_finite(tokens)


def test_what_fills_no_patch_has_no_influence(tiny):
  variables, x = tiny
  longer = np.pad(x, [(0, 0), (0, 3), (0, 1)], constant_values=9)
  chex.assert_trees_all_equal(
    encode(TINY, variables, longer), encode(TINY, variables, x)
  )


def test_an_odd_kernel_keeps_the_length(tiny):
  _, x = tiny
  module = replaced(conv_kernel=5)
  tokens, _ = jax.eval_shape(
    lambda: module.init_with_output(KEY, x, train=False)
  )
  assert tokens.shape == (2, 24, 16)


def test_evaluation_is_deterministic_and_training_random_by_key(tiny):
  variables, x = tiny
  dropping = replaced(
    layerdrop_rate=0.5,
    dropout_rate=0.1,
    attention_dropout_rate=0.1,
    activation_dropout_rate=0.1,
    input_dropout_rate=0.1,
  )

  @jax.jit
  def train(key):
    return dropping.apply(variables, x, train=True, rngs={"dropout": key})

  a, b = train(KEY), train(jax.random.key(1))
  chex.assert_trees_all_equal(a, train(KEY))
  chex.assert_tree_all_finite((a, b))
  assert jnp.abs(a - b).max() > 1e-2
  chex.assert_trees_all_equal(
    encode(dropping, variables, x), encode(TINY, variables, x)
  )


def test_layerdrop_leaves_blocks_out(tiny):
  variables, x = tiny

  @jax.jit
  def before_and_after(key):
    _, state = replaced(layerdrop_rate=0.5).apply(
      variables,
      x,
      train=True,
      rngs={"dropout": key},
      mutable=["intermediates"],
    )
    seen = state["intermediates"]
    after = seen["blocks"]["block_out"][0]
    first = seen["encoder_norm_out"][0][None]
    return jnp.concatenate([first, after[:-1]]), after

  kept = []
  for seed in range(16):
    before, after = before_and_after(jax.random.key(seed))
    kept.append(np.any(before != after, axis=(1, 2, 3)))
  # Every block is drawn by itself, for the whole batch.
  patterns = {tuple(pattern.tolist()) for pattern in kept}
  assert len(patterns) == 4


@pytest.mark.slow
def test_remat_and_loop_do_not_change_values_and_gradients(tiny):
  variables, x = tiny

  def value_and_gradient(**fields):
    def total(variables):
      tokens = replaced(**fields).apply(variables, x, train=False)
      return jnp.sin(tokens).sum()

    gradient = jax.value_and_grad(total)
    return jax.jit(gradient)(variables)

  expected = value_and_gradient()
  for remat, scan_layers in (("full", True), ("dots", False)):
    chex.assert_trees_all_close(
      value_and_gradient(remat=remat, scan_layers=scan_layers),
      expected,
      rtol=1e-4,
      atol=1e-4,
    )


def test_bfloat16_computes_close_to_float32_with_float32_parameters(tiny):
  variables, x = tiny
  half = replaced(dtype=jnp.bfloat16)
  tokens = encode(half, variables, x)
  assert tokens.dtype == jnp.bfloat16
  shapes = jax.eval_shape(lambda: half.init(KEY, x, train=False))
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
  expected = encode(TINY, variables, x)
  assert_near(tokens.astype(jnp.float32), expected, 0.05)


def test_gradient_is_scaled_in_both_directions_and_the_value_is_not():
  def scaled(x):
    return scale_gradient(x**2, 0.5)

  assert scaled(3.0) == 9
  assert jax.grad(scaled)(3.0) == 3
  assert jax.jvp(scaled, (3.0,), (1.0,))[1] == 3


def test_initial_weights_have_the_published_scales():
  module = Beats(depth=2, width=256, num_heads=4, mlp_width=512)
  x = np.zeros((1, 16, 16), np.float32)
  init = jax.jit(lambda: module.init(KEY, x, train=False))
  params = init()["params"]
  beta, blocks = 16**-0.25, params["blocks"]
  std = {
    "query": 256**-0.5,
    "key": 256**-0.5,
    "value": beta * 256**-0.5,
    "out": beta * 256**-0.5,
    "gate": 0.02,
  }
  for name, expected in std.items():
    kernel = blocks["attention"][name]["kernel"]
    np.testing.assert_allclose(kernel.std(), expected, rtol=0.1)
  for name in ("mlp_in", "mlp_out"):
    np.testing.assert_allclose(
      blocks[name]["kernel"].std(), beta * (2 / 768) ** 0.5, rtol=0.1
    )
  assert (blocks["attention"]["gate_scale"] == 1).all()
  np.testing.assert_allclose(params["relative_bias"].std(), 0.02, rtol=0.1)
  for leaf in jax.tree.leaves(params["patch_projection"]):
    np.testing.assert_allclose(jnp.abs(leaf).max(), 512**-0.5, rtol=0.1)
  # A new kernel is v itself: g holds its norms.
  norms = jnp.linalg.norm(params["positions"]["v"], axis=(1, 2))
  np.testing.assert_allclose(params["positions"]["g"][:, 0, 0], norms, 1e-5)
  np.testing.assert_allclose(
    params["positions"]["v"].std(), (4 / (128 * 256)) ** 0.5, rtol=0.1
  )


@pytest.mark.parametrize(
  ("fields", "shape", "message"),
  [
    ({}, (2, 3, 48, 8), r"\[batch, time, mel\], got shape \(2, 3, 48, 8\)"),
    ({}, (2, 48, 3), "a patch of 4x4, got 48 frames and 3 mel bins"),
    ({"num_heads": 3}, (2, 48, 8), "width 16 and num_heads 3"),
    ({"conv_groups": 3}, (2, 48, 8), "width 16 and conv_groups 3"),
    ({"num_buckets": 10}, (2, 48, 8), "multiple of 4"),
    ({"max_distance": 2}, (2, 48, 8), "max_distance 2"),
    ({"remat": "all"}, (2, 48, 8), "remat must be one of"),
  ],
)
def test_what_cannot_be_encoded_is_explained(fields, shape, message):
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      lambda: replaced(**fields).init(KEY, jnp.zeros(shape), train=False)
    )


@pytest.mark.parametrize("tokens,taps", [(5, 8), (12, 8), (9, 7)])
def test_both_ways_to_convolve_agree(tokens, taps):
  """That of CPUs, and that of all other devices."""
  x_key, kernel_key = jax.random.split(jax.random.key(0))
  x = jax.random.normal(x_key, (2, tokens, 6))
  kernel = jax.random.normal(kernel_key, (taps, 2, 6))

  @functools.partial(jax.jit, static_argnums=0)
  def run(way, x, kernel):
    def loss(x, kernel):
      y = way(x, kernel, groups=3)
      return jnp.sum(jnp.sin(y)), y

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)

  expected = run(positional_convolution._directly, x, kernel)
  found = run(positional_convolution._by_fourier, x, kernel)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_the_encoder_has_no_fourier_transform_of_xla():
  # On a CPU, one beside an eigendecomposition can wait for it for ever.
  types = {"dtype": jnp.float32, "param_dtype": jnp.float32}
  module = positional_convolution.PositionalConvolution(4, 2, **types)
  x = jnp.ones((1, 6, 8))
  variables = module.init(jax.random.key(0), x)
  program = jax.jit(jax.grad(lambda v: module.apply(v, x).sum()))
  assert "fft" not in program.lower(variables).compile().as_text()
