"""CLIP's visual tower: golden values, and what must hold anyway."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import ClipVisionTransformer
from pmrl_jax.weights.clip_vit import clip_vit_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "vision_towers.npz"
TOWER = ClipVisionTransformer(
  image_size=24,
  patch_size=6,
  width=24,
  depth=2,
  num_heads=2,
  mlp_width=20,
  head_width=10,
)
KEY = jax.random.key(0)


def tokens_of(module, variables, images, key=None):
  rngs = {} if key is None else {"dropout": key}
  return module.apply(variables, images, train=key is not None, rngs=rngs)


apply = jax.jit(tokens_of, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def gradient(module, variables, images, cotangent):
  def total(variables):
    return (tokens_of(module, variables, images) * cotangent).sum()

  return jax.grad(total)(variables)


def close(actual, expected, tolerance=1e-5):
  expected = np.asarray(expected)
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def as_images(pixels):
  return jnp.asarray(pixels.transpose(0, 2, 3, 1))


def below(arrays, prefix):
  return {
    key.removeprefix(prefix): array
    for key, array in arrays.items()
    if key.startswith(prefix)
  }


@pytest.fixture(name="published", scope="module")
def _published():
  with np.load(GOLDEN, allow_pickle=False) as arrays:
    golden = dict(arrays)
  loaded = to_params(below(golden, "clip/param/"), clip_vit_table(TOWER))
  assert loaded.missing == loaded.unexpected == []
  return golden, {"params": loaded.params}


@pytest.mark.parametrize("name", ["clip", "clip_gelu"])
def test_tower_gives_the_golden_tokens(published, name):
  golden, variables = published
  module = TOWER.clone(quick_gelu=name == "clip")
  tokens = apply(module, variables, as_images(golden["in/images"]))
  close(tokens, golden[f"{name}/out/tokens"])
  embedding = module.apply(variables, tokens, method="project")
  close(embedding, golden[f"{name}/out/embedding"])
  other = apply(module, variables, as_images(golden["in/other_images"]))
  close(other, golden[f"{name}/out/other_tokens"])


@pytest.mark.parametrize(
  "fields", [{"remat": "full"}, {"remat": "dots", "scan_layers": False}]
)
def test_tower_gives_the_golden_gradients(published, fields):
  golden, variables = published
  images, cotangent = as_images(golden["in/images"]), golden["in/cotangent"]
  result = gradient(TOWER.clone(**fields), variables, images, cotangent)
  actual = dict(to_state_dict(result["params"], clip_vit_table(TOWER)))
  expected = below(golden, "clip/grad/")
  assert len(expected) > 25
  for key, array in expected.items():
    close(actual[key], array, 1e-4)


def test_training_drops_patches_by_the_key(published):
  golden, variables = published
  images = as_images(golden["in/images"])
  module = TOWER.clone(patch_dropout_rate=0.5)
  first, second = (
    apply(module, variables, images, jax.random.key(seed)) for seed in (0, 1)
  )
  assert first.shape == (2, 1 + 8, 24)
  assert jnp.isfinite(first).all()
  assert jnp.abs(first - second).max() > 1e-3
  # Without it training needs no random keys, and is as evaluation.
  trained = jax.jit(lambda v, x: TOWER.apply(v, x, train=True))
  tokens = trained(variables, images)
  close(tokens, golden["clip/out/tokens"])


def test_bfloat16_computes_close_to_float32(published):
  golden, variables = published
  half = TOWER.clone(dtype=jnp.bfloat16)
  tokens = apply(half, variables, as_images(golden["in/images"]))
  assert tokens.dtype == jnp.bfloat16
  close(tokens.astype(jnp.float32), golden["clip/out/tokens"], 0.05)


def test_training_starts_as_pytorch_does():
  module = TOWER.clone(width=64, mlp_width=128)
  init = jax.jit(lambda key, x: module.init(key, x, train=False))
  params = init(KEY, jnp.zeros((1, 24, 24, 3)))["params"]
  blocks = params["blocks"]
  for name, bound in {
    "qkv": (6 / (64 + 192)) ** 0.5,
    "attention_out": 64**-0.5,
    "mlp_in": 64**-0.5,
    "mlp_out": 128**-0.5,
  }.items():
    assert 0.98 * bound < jnp.abs(blocks[name]["kernel"]).max() <= bound
    largest = jnp.abs(blocks[name]["bias"]).max()
    assert (largest > 0.9 * bound) == name.startswith("mlp")
  positions = params["embeddings"]["positions"]
  np.testing.assert_allclose(positions.std(), 64**-0.5, rtol=0.1)


@pytest.mark.parametrize(
  "shape,match",
  [
    ((1, 3, 24, 24), "expected images.*PyTorch's"),
    ((1, 24, 20, 3), "multiples of the patch size, got 24x20"),
  ],
)
def test_wrong_images_are_refused(shape, match):
  images = jax.ShapeDtypeStruct(shape, jnp.float32)
  with pytest.raises(ValueError, match=match):
    jax.eval_shape(lambda x: TOWER.init(KEY, x, train=False), images)


def test_heads_that_do_not_divide_the_width_are_refused():
  with pytest.raises(ValueError, match="got width 24 and 7 heads"):
    TOWER.clone(num_heads=7).init(KEY, jnp.zeros((1, 24, 24, 3)), train=False)


def test_a_tower_without_head_has_no_embedding():
  module = TOWER.clone(head_width=0)
  with pytest.raises(ValueError, match="no head; give it a head_width"):
    module.apply({}, jnp.zeros((1, 5, 24)), method="project")
