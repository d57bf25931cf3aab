"""Keys and sizes of checkpoints are changed as by the published loaders."""

import json
import pathlib

import numpy as np
import pytest

from pmrl_jax.weights import keys
from pmrl_jax.weights.resizing import EVA_CLIP, PUBLISHED
from pmrl_jax.weights.state_dict import to_params
from pmrl_jax.weights.tables import Entry
from pmrl_jax.weights.tensors import stand_in
from pmrl_jax.weights.trees import flat, nested

GOLDEN = pathlib.Path(__file__).parents[1] / "goldens" / "ckpt_adapt.npz"
POSITIONS = "vision_encoder.visual.pos_embed"
TIED = {
  "multimodal_encoder.bert.embeddings.word_embeddings.weight": (
    "multimodal_encoder.cls.predictions.decoder.weight",
  ),
  "multimodal_encoder.cls.predictions.bias": (
    "multimodal_encoder.cls.predictions.decoder.bias",
  ),
}


@pytest.fixture(scope="module")
def golden():
  with np.load(GOLDEN, allow_pickle=False) as arrays:
    return dict(arrays)


@pytest.fixture(scope="module")
def listed(golden):
  return json.loads(bytes(golden["cfg/json"]))


def renamed(key):
  """The key of a model's tensor in the golden checkpoint."""
  key = key.replace("vision_encoder.", "evaclip_model.")
  return "module." + key.replace("vision", "video")


@pytest.fixture(scope="module")
def checkpoint(golden, listed):
  """Under the old keys; values where the golden file has them."""
  shapes = {
    renamed(key): tuple(shape) for key, shape in listed["key_shapes"].items()
  }
  values = {renamed(k[3:]): v for k, v in golden.items() if k[:3] == "in/"}
  return {
    key: values[key] if key in values else stand_in(shapes.get(key, (2,)), "f4")
    for key in listed["checkpoint_keys"]
  }


@pytest.fixture(scope="module")
def table(listed):
  """Every key of the model is a parameter; what is tied is one."""
  copies = {copy for each in TIED.values() for copy in each}
  return [
    Entry(key, key.replace(".", "/"), copies=TIED.get(key, ()))
    for key in listed["model_keys"]
    if key not in copies
  ]


@pytest.fixture(scope="module")
def target(listed, table):
  shapes = listed["key_shapes"]
  return nested({e.path: stand_in(tuple(shapes[e.key]), "f4") for e in table})


def close(actual, expected):
  scale = np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6 * scale)


def test_a_checkpoint_is_loaded_as_by_the_published_loader(
  golden, listed, checkpoint, table, target
):
  loaded = to_params(
    keys.published(checkpoint), table, target=target, resizing=PUBLISHED
  )
  assert loaded.missing == listed["missing"]
  assert loaded.unexpected == listed["unexpected"]
  expected = {
    key.removeprefix("out/modify_checkpoint/"): value
    for key, value in golden.items()
    if key.startswith("out/modify_checkpoint/")
  }
  assert set(loaded.resized) == set(expected)
  arrays = flat(loaded.params)
  for key, value in expected.items():
    close(arrays[key.replace(".", "/")], value)
    before = golden[f"in/{key}"].shape
    assert loaded.resized[key] == (before, value.shape)


def test_a_file_of_eva_clip_is_resized_as_by_its_loader(golden):
  kernel, positions = "visual.patch_embed.proj.weight", "visual.pos_embed"
  before = {
    f"module.{positions}": golden[f"in/{POSITIONS}"],
    f"module.{kernel}": golden[f"in/evaclip_file/{kernel}"],
  }
  after = {k: golden[f"out/evaclip_file/{k}"] for k in (kernel, positions)}
  table = [Entry(key, key) for key in after]
  loaded = to_params(
    keys.without_module(before), table, target=after, resizing=EVA_CLIP
  )
  for key, value in after.items():
    close(loaded.params[key], value)
  assert list(loaded.resized) == [positions]


def test_patches_of_another_size_get_a_kernel_of_theirs():
  key = "visual.patch_embed.proj.weight"
  kernel = np.full((5, 3, 16, 16), 2.0, np.float32)
  target = {key: np.zeros((5, 3, 14, 14), np.float32)}
  loaded = to_params(
    {key: kernel}, [Entry(key, key)], target=target, resizing=EVA_CLIP
  )
  np.testing.assert_allclose(loaded.params[key], target[key] + 2.0, rtol=1e-6)
  assert loaded.resized == {key: ((5, 3, 16, 16), (5, 3, 14, 14))}


def test_what_differs_in_more_than_its_size_does_not_fit():
  key = "visual.pos_embed"
  target = {key: np.zeros((1, 10, 8), np.float32)}
  with pytest.raises(ValueError, match=r"\[1, 5, 9\], and .* \[1, 10, 8\]"):
    to_params(
      {key: np.zeros((1, 5, 9))},
      [Entry(key, key)],
      target=target,
      resizing=PUBLISHED,
    )
  with pytest.raises(ValueError, match="a class token and a square"):
    to_params(
      {key: np.zeros((1, 6, 8))},
      [Entry(key, key)],
      target=target,
      resizing=PUBLISHED,
    )


def test_renamed_keys_keep_their_dtype_and_others_become_float32():
  half = np.ones(2, np.float16)
  tensors = keys.published(
    {
      "module.video_type_embeddings": half,
      "clip_model.visual.norm.bias": half,
      "module.evaclip_model.video.x": half,
      "module.itm_head.linear1.bias": half,
    }
  )
  assert {key: tensor.read().dtype for key, tensor in tensors.items()} == {
    "vision_type_embeddings": np.float16,
    "vision_encoder.visual.norm.bias": np.float16,
    "evaclip_model.vision.x": np.float16,  # the first rule alone
    "itm_head.linear1.bias": np.float32,
  }
  assert tensors["itm_head.linear1.bias"].dtype == np.float32


def test_two_keys_that_become_one_are_refused():
  array = np.ones(2)
  with pytest.raises(ValueError, match="a and module.a are both read as a"):
    keys.published({"a": array, "module.a": array})
