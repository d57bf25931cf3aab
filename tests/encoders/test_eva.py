"""EVA-CLIP's visual tower: golden values, and what must hold anyway."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import EvaVisionTransformer, eva
from pmrl_jax.encoders.patches import drop_patches
from pmrl_jax.encoders.rotary import rotary_table
from pmrl_jax.weights.eva import eva_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict
from pmrl_jax.weights.tables import prefixed

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
EVA01 = EvaVisionTransformer(
  image_size=56,
  patch_size=14,
  width=48,
  depth=2,
  num_heads=4,
  mlp_width=209,
  head_width=16,
)
SMALL = {
  "image_size": 24,
  "patch_size": 6,
  "width": 24,
  "depth": 2,
  "num_heads": 2,
  "mlp_width": 20,
  "head_width": 10,
}
TOWERS = {
  "eva02": EvaVisionTransformer(
    **SMALL,
    fused_qkv=False,
    attention_norm=True,
    mlp_norm=True,
    swiglu=True,
    rotary_side=5,
  ),
  "eva_post_norm": EvaVisionTransformer(**SMALL, post_norm=True),
}
KEY = jax.random.key(0)


def load(name):
  with np.load(GOLDENS / name, allow_pickle=False) as arrays:
    return dict(arrays)


def below(arrays, prefix):
  return {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }


def params_of(module, tensors, key=""):
  loaded = to_params(tensors, prefixed(eva_table(module), key=key))
  assert loaded.missing == loaded.unexpected == []
  return {"params": loaded.params}


def close(actual, expected, tolerance=1e-5):
  expected = np.asarray(expected)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def tokens_of(module, variables, images, key=None):
  rngs = {} if key is None else {"dropout": key}
  return module.apply(variables, images, train=key is not None, rngs=rngs)


apply = jax.jit(tokens_of, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def tokens_and_gradient(module, variables, images, cotangent, key=None):
  """The sum of tokens and cotangent, the tokens, the sum's gradient."""

  def total(variables):
    tokens = tokens_of(module, variables, images, key)
    return (tokens * cotangent).sum(), tokens

  (loss, tokens), gradient = jax.value_and_grad(total, has_aux=True)(variables)
  return loss, tokens, gradient


def as_images(pixels):
  """PyTorch's `[..., channel, height, width]` as a batch of images."""
  pixels = pixels.reshape(-1, *pixels.shape[-3:])
  return jnp.asarray(pixels.transpose(0, 2, 3, 1))


@pytest.fixture(name="published", scope="module")
def _published():
  golden = load("vision_eva.npz")
  variables = params_of(EVA01, below(golden, "param/"), "visual.")
  return golden, variables, as_images(golden["in/vision_pixels"])


@pytest.fixture(name="towers", scope="module")
def _towers():
  golden = load("vision_towers.npz")
  variables = {
    name: params_of(module, below(golden, f"{name}/param/"))
    for name, module in TOWERS.items()
  }
  return golden, variables


def test_published_tower_gives_the_golden_tokens_and_traces(published):
  golden, variables, images = published
  tokens, state = jax.jit(
    lambda v, x: EVA01.apply(v, x, train=False, mutable="intermediates")
  )(variables, images)
  expected = golden["out/forward_vision_encoder"]
  close(tokens.reshape(expected.shape), expected)
  pooled = tokens.reshape(expected.shape)[:, :, 0].mean(axis=1)
  close(pooled, golden["out/pool_vision_for_contra"])
  head = EVA01.apply(variables, tokens, method="project")
  close(head, golden["out/visual_head_cls"])
  seen = state["intermediates"]
  traces = {
    "patch_embed": seen["embeddings"]["patches"][0],
    "embedded": seen["embeddings"]["tokens"][0],
  }
  for layer in range(2):
    for key, name in {
      f"block{layer}_attn": "attention_branch",
      f"block{layer}_mlp": "mlp_branch",
      f"block{layer}": "output",
    }.items():
      traces[key] = seen["blocks"][name][0][layer]
  assert {f"out/trace/{name}" for name in traces} == {
    key for key in golden if key.startswith("out/trace/")
  }
  for name, trace in traces.items():
    close(trace, golden[f"out/trace/{name}"])


@pytest.mark.parametrize(
  "name,fields", [("eva02", {}), ("eva_post_norm", {"remat": "full"})]
)
def test_other_towers_give_the_golden_tokens_and_gradients(
  towers, name, fields
):
  golden, variables = towers
  module, variables = TOWERS[name].clone(**fields), variables[name]
  images = as_images(golden["in/images"])
  _, tokens, gradient = tokens_and_gradient(
    module, variables, images, golden["in/cotangent"]
  )
  close(tokens, golden[f"{name}/out/tokens"])
  embedding = module.apply(variables, tokens, method="project")
  close(embedding, golden[f"{name}/out/embedding"])
  actual = dict(to_state_dict(gradient["params"], eva_table(module)))
  expected = below(golden, f"{name}/grad/")
  assert len(expected) > 30
  for key, array in expected.items():
    close(actual[key], array, 1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_positions_of_other_sizes_are_those_of_a_resized_tower(towers, name):
  golden, variables = towers
  images = as_images(golden["in/other_images"])
  tokens = apply(TOWERS[name], variables[name], images)
  close(tokens, golden[f"{name}/out/other_tokens"])


def test_rotary_table_is_the_published_buffer(towers):
  golden, _ = towers
  cosines, sines = rotary_table((4, 4), 5, 12)
  close(cosines, golden["eva02/buffer/rope.freqs_cos"], 1e-6)
  close(sines, golden["eva02/buffer/rope.freqs_sin"], 1e-6)


@pytest.mark.slow
def test_loop_and_recomputation_change_neither_values_nor_gradients(towers):
  golden, variables = towers
  images = as_images(golden["in/images"])[:1]

  def both(**fields):
    # The same branches are dropped whichever way the layers run.
    return tokens_and_gradient(
      TOWERS["eva_post_norm"].clone(**fields),
      variables["eva_post_norm"],
      images,
      golden["in/cotangent"][:1],
      KEY,
    )

  jax.tree.map(
    functools.partial(close, tolerance=1e-4),
    both(remat="dots", scan_layers=False),
    both(),
  )


def test_training_drops_by_the_key_and_evaluation_needs_none(towers):
  golden, variables = towers
  module, variables = TOWERS["eva02"], variables["eva02"]
  module = module.clone(drop_path_rate=0.9, patch_dropout_rate=0.8)
  images = as_images(golden["in/images"])
  outputs = [
    apply(module, variables, images, jax.random.key(seed)) for seed in range(3)
  ]
  for output in outputs:
    # Three of sixteen patches are left, and the class token.
    assert output.shape == (2, 1 + 3, 24)
    assert jnp.isfinite(output).all()
  again = apply(module, variables, images, jax.random.key(0))
  np.testing.assert_array_equal(outputs[0], again)
  assert jnp.abs(outputs[0] - outputs[1]).max() > 1e-3
  close(apply(module, variables, images), golden["eva02/out/tokens"])


def test_stochastic_depth_grows_from_zero(towers):
  golden, variables = towers
  module = TOWERS["eva_post_norm"].clone(drop_path_rate=0.999)
  images = as_images(golden["in/images"])

  @jax.jit
  def trained(variables):
    rngs = {"dropout": KEY}
    return module.apply(
      variables, images, train=True, rngs=rngs, mutable="intermediates"
    )

  seen = trained(variables["eva_post_norm"])[1]["intermediates"]
  first, last = seen["blocks"]["output"][0]
  branches = (seen["blocks"][f"{x}_branch"][0][0] for x in ("attention", "mlp"))
  close(first, seen["embeddings"]["tokens"][0] + sum(branches), 1e-6)
  np.testing.assert_array_equal(last, first)


def test_patches_keep_their_rotary_positions(towers, monkeypatch):
  golden, variables = towers
  order = np.array([0, *1 + np.random.default_rng(0).permutation(16)])

  def reorder(tokens, rate, *, key):
    return tokens[:, order], jnp.broadcast_to(order, tokens.shape[:2])

  monkeypatch.setattr(eva, "drop_patches", reorder)
  module = TOWERS["eva02"].clone(drop_path_rate=0.0, patch_dropout_rate=0.1)
  images = as_images(golden["in/images"])
  tokens = apply(module, variables["eva02"], images, KEY)
  close(tokens, golden["eva02/out/tokens"][:, order])


def test_dropped_patches_are_a_choice_of_their_own_for_every_image():
  tokens = jnp.arange(2 * 11 * 1.0).reshape(2, 11, 1)
  kept, indices = drop_patches(tokens, 0.3, key=KEY)
  assert kept.shape == (2, 1 + 7, 1)
  np.testing.assert_array_equal(kept[..., 0], indices + np.array([[0], [11]]))
  for row in indices.tolist():
    assert row[0] == 0 and row == sorted(set(row))
  assert indices[0].tolist() != indices[1].tolist()
  assert drop_patches(tokens, 0.99, key=KEY)[0].shape == (2, 2, 1)


def test_bfloat16_computes_close_to_float32(towers):
  golden, variables = towers
  images = as_images(golden["in/images"])
  half = TOWERS["eva02"].clone(dtype=jnp.bfloat16)
  tokens = apply(half, variables["eva02"], images)
  assert tokens.dtype == jnp.bfloat16
  close(tokens.astype(jnp.float32), golden["eva02/out/tokens"], 0.05)


def test_training_starts_as_published():
  module = EvaVisionTransformer(
    image_size=8, patch_size=4, width=64, depth=3, num_heads=2, mlp_width=128
  )
  init = jax.jit(lambda key, x: module.init(key, x, train=False))
  params = init(KEY, jnp.zeros((1, 8, 8, 3)))["params"]
  blocks = params["blocks"]
  for part in ("attention", "mlp"):
    stddevs = blocks[part]["out"]["kernel"].std(axis=(1, 2))
    expected = 0.02 / jnp.sqrt(2 * jnp.arange(1.0, 4.0))
    np.testing.assert_allclose(stddevs, expected, rtol=0.05)
  assert abs(blocks["mlp"]["in"]["kernel"].std() - 0.02) < 1e-3
  assert not blocks["attention"]["query_bias"].any()
  projection = params["embeddings"]["projection"]
  bound = 1 / np.sqrt(4 * 4 * 3)
  for array in projection.values():
    assert 0.9 * bound < jnp.abs(array).max() <= bound


@pytest.mark.parametrize(
  "shape,match",
  [
    ((1, 3, 24, 24), r"expected images.*got shape \(1, 3, 24, 24\); PyTorch's"),
    ((2, 1, 24, 24, 3), "expected images.*frames of videos"),
    ((1, 24, 25, 3), "multiples of the patch size, got 24x25"),
    ((1, 0, 24, 3), "multiples of the patch size, got 0x24"),
  ],
)
def test_wrong_images_are_refused(shape, match):
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda x: TOWERS["eva02"].init(KEY, x, train=False), images)


@pytest.mark.parametrize(
  "fields,match",
  [
    ({"num_heads": 5}, "multiple of num_heads, got width 24 and 5 heads"),
    ({"num_heads": 4}, "multiple of 4.*got 6"),
    ({"remat": "some"}, "remat must be one of"),
  ],
)
def test_fields_that_do_not_fit_are_refused(fields, match):
  module = TOWERS["eva02"].clone(**fields)
  images = jax.ShapeDtypeStruct((1, 24, 24, 3), jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda x: module.init(KEY, x, train=False), images)


def test_a_tower_without_head_has_no_embedding():
  module = EVA01.clone(head_width=0)
  with pytest.raises(ValueError, match="no head; give it a head_width"):
    module.apply({}, jnp.zeros((1, 5, 48)), method="project")
