"""State dicts become parameters and come back as they were."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders.stack import apply_blocks
from pmrl_jax.weights.initial import initial
from pmrl_jax.weights.resizing import PUBLISHED
from pmrl_jax.weights.state_dict import (
  to_params,
  to_state_dict,
  to_tensors,
)
from pmrl_jax.weights.tables import (
  CONV_1D,
  Constant,
  Entry,
  Unused,
  conv_2d,
  dense,
  layer_norm,
  prefixed,
  stacked,
)
from pmrl_jax.weights.tensors import LazyTensor, lazy
from pmrl_jax.weights.trees import flat


class Block(nn.Module):
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, per_layer):
    return nn.Dense(x.shape[-1], param_dtype=self.param_dtype, name="fc")(x)


class Tower(nn.Module):
  """All kinds of entries: a stack, copies, one for all layers, positions."""

  num_frames: int = 2
  depth: int = 3
  param_dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, images):
    make = {"param_dtype": self.param_dtype}
    x = nn.Conv(4, (3, 2), padding="VALID", name="patches", **make)(images)
    x = nn.LayerNorm(name="norm", **make)(x.reshape(len(x), -1, 4))
    for name, shape in [
      ("frames", (1, self.num_frames, 4)),
      ("bias", (6, 2)),
      ("words", (5, 4)),
      ("kernel", (3, 2, 4)),
      ("temperature", ()),
    ]:
      self.param(name, nn.initializers.ones, shape, self.param_dtype)
    block = Block(name="blocks", **make)
    return apply_blocks(block, x, depth=self.depth)


TABLE = [
  *conv_2d("patch_embed", "patches"),
  *layer_norm("norm", "norm"),
  Entry("vision_frame_embedding", "frames"),
  Entry("layers.{layer}.bias", "bias", depth=3, repeated=True),
  Entry("word.weight", "words", copies=("decoder.weight",)),
  Entry("conv.weight", "kernel", CONV_1D),
  Entry("temperature", "temperature"),
  *stacked(dense("layers.{layer}.fc", "blocks/fc"), 3),
]
IMAGES = jax.ShapeDtypeStruct((1, 3, 4, 3), jnp.float32)


def target(**fields):
  key = jax.random.key(0)
  return jax.eval_shape(Tower(**fields).init, key, IMAGES)["params"]


@pytest.fixture
def tensors():
  """A state dict for TABLE with random values."""
  rng = np.random.default_rng(0)
  tensors = {
    key: rng.normal(size=tensor.shape).astype(np.float32)
    for key, tensor in to_tensors(target(), TABLE).items()
  }
  tensors["decoder.weight"] = tensors["word.weight"]
  for layer in (1, 2):
    tensors[f"layers.{layer}.bias"] = tensors["layers.0.bias"]
  return tensors


def same(actual, expected):
  assert list(actual) == list(expected)
  for key in expected:
    assert actual[key].dtype == expected[key].dtype, key
    np.testing.assert_array_equal(actual[key], expected[key])


def test_a_state_dict_comes_back_as_it_was(tensors):
  loaded = to_params(tensors, TABLE, target=target())
  assert loaded[1:] == ([], [], [], {})
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), target())
  assert jax.tree.map(lambda x: (x.shape, x.dtype), loaded.params) == shapes
  same(dict(to_state_dict(loaded.params, TABLE)), tensors)


def test_without_a_target_the_shapes_are_the_files(tensors):
  with_target = to_params(tensors, TABLE, target=target()).params
  without = to_params(tensors, TABLE).params
  same(flat(without), {path: flat(with_target)[path] for path in flat(without)})
  assert set(flat(without)) == set(flat(with_target))


def test_what_is_where_is_known_by_hand(tensors):
  params = to_params(tensors, TABLE, target=target()).params
  kernel = tensors["patch_embed.weight"]  # [out, in, h, w]
  assert kernel.shape == (4, 3, 3, 2)
  assert params["patches"]["kernel"][2, 1, 0, 3] == kernel[3, 0, 2, 1]
  stack = params["blocks"]["fc"]["kernel"]
  assert stack[2, 0, 3] == tensors["layers.2.fc.weight"][3, 0]
  np.testing.assert_array_equal(params["bias"], tensors["layers.1.bias"])


def test_parameters_take_the_dtype_of_the_target(tensors):
  half = {key: array.astype(np.float16) for key, array in tensors.items()}
  for dtype in (jnp.float32, jnp.bfloat16):
    loaded = to_params(half, TABLE, target=target(param_dtype=dtype))
    assert {x.dtype for x in jax.tree.leaves(loaded.params)} == {
      np.dtype(dtype)
    }
  assert to_params(half, TABLE).params["words"].dtype == np.float16


def test_one_tensor_is_read_at_a_time(tensors):
  reading = []

  def read(key):
    reading.append(key)
    return tensors[key]

  files = {
    key: LazyTensor(array.shape, array.dtype, lambda key=key: read(key))
    for key, array in tensors.items()
  }
  told = []
  loaded = to_params(
    files,
    TABLE,
    target=target(),
    progress=lambda done, total: told.append((done, total, len(reading))),
  )
  assert reading == list(tensors)
  assert [count for _, _, count in told] == list(range(1, len(tensors) + 1))
  size = sum(array.nbytes for array in tensors.values())
  assert told[-1][:2] == (size, size)
  same(dict(to_state_dict(loaded.params, TABLE)), tensors)


def test_all_that_does_not_fit_is_told_before_anything_is_read(tensors):
  unread = {key: lazy(array) for key, array in tensors.items()}
  for key in ("norm.weight", "layers.1.fc.weight"):
    unread[key] = unread[key]._replace(shape=(7, 4))
  unread = {key: t._replace(read=pytest.fail) for key, t in unread.items()}
  with pytest.raises(ValueError, match="2 of 18 tensors do not fit") as caught:
    to_params(unread, TABLE, target=target())
  message = str(caught.value)
  assert "norm.weight is [7, 4], and norm/scale expects [4]" in message
  assert "layers.1.fc.weight is [7, 4], and blocks/fc/kernel exp" in message
  with pytest.raises(ValueError, match="all layers and copies must have one"):
    to_params(unread, TABLE)


def test_a_long_list_of_misfits_is_cut(tensors):
  wrong = {key: np.zeros((9, 9)) for key in tensors}
  with pytest.raises(ValueError, match="and 8 more$"):
    to_params(wrong, TABLE, target=target())


def test_copies_that_differ_are_refused(tensors):
  for key in ("decoder.weight", "layers.2.bias"):
    wrong = {**tensors, key: tensors[key] + 1}
    with pytest.raises(ValueError, match=f"{key} should be a copy of"):
      to_params(wrong, TABLE, target=target())


def test_copies_may_be_missing(tensors):
  """As in files of safetensors, which keep one of them."""
  whole = to_params(tensors, TABLE, target=target()).params
  for absent in (["decoder.weight"], ["word.weight"], ["layers.0.bias"]):
    some = {k: v for k, v in tensors.items() if k not in absent}
    loaded = to_params(some, TABLE, target=target())
    assert loaded.missing == []
    same(flat(loaded.params), {p: flat(whole)[p] for p in flat(loaded.params)})


def test_what_is_missing_unexpected_and_unused_is_listed(tensors):
  del tensors["layers.1.fc.weight"], tensors["norm.bias"]
  del tensors["word.weight"], tensors["decoder.weight"]
  for key in ("text.a", "text.b", "logit_scale", "other"):
    tensors[key] = np.zeros(2)
  loaded = to_params(
    tensors,
    [*TABLE, Unused("text.*"), Unused("logit_scale"), Unused("no.*")],
    target=target(),
  )
  assert loaded.missing == [
    "norm.bias",
    "word.weight",
    "layers.1.fc.weight",
  ]
  assert loaded.unused == ["text.a", "text.b", "logit_scale"]
  assert loaded.unexpected == ["other"]
  paths = flat(loaded.params)
  assert not {"norm/bias", "words", "blocks/fc/kernel"} & set(paths)
  assert {"norm/scale", "blocks/fc/bias"} <= set(paths)


def test_an_init_fills_what_is_missing_and_nothing_else(tensors):
  whole = flat(to_params(tensors, TABLE, target=target()).params)
  del tensors["layers.1.fc.weight"], tensors["norm.bias"]
  asked = []
  random = initial(
    lambda: Tower().init(jax.random.key(1), jnp.zeros(IMAGES.shape))["params"]
  )

  def init(paths):
    asked.extend(paths)
    return random(paths)

  loaded = to_params(tensors, TABLE, target=target(), init=init)
  assert loaded.missing == ["norm.bias", "layers.1.fc.weight"]
  assert sorted(asked) == ["blocks/fc/kernel", "norm/bias"]
  fresh = random(["blocks/fc/kernel", "norm/bias"])
  for path, array in flat(loaded.params).items():
    expected = whole[path].copy()
    if path == "norm/bias":
      expected = fresh[path]
    if path == "blocks/fc/kernel":
      expected[1] = fresh[path][1]
    np.testing.assert_array_equal(array, expected)


def test_a_parameter_that_no_entry_has_comes_from_the_init(tensors):
  table = [entry for entry in TABLE if entry.path != "temperature"]
  del tensors["temperature"]
  init = initial(
    lambda: Tower().init(jax.random.key(1), jnp.zeros(IMAGES.shape))["params"]
  )
  loaded = to_params(tensors, table, target=target(), init=init)
  assert loaded.params["temperature"] == 1
  without = to_params(tensors, table, target=target())
  assert "temperature" not in without.params


def test_other_numbers_of_frames_are_resized_and_told(tensors):
  loaded = to_params(
    tensors, TABLE, target=target(num_frames=4), resizing=PUBLISHED
  )
  assert loaded.resized == {"vision_frame_embedding": ((1, 2, 4), (1, 4, 4))}
  np.testing.assert_array_equal(
    loaded.params["frames"], tensors["vision_frame_embedding"][:, [0, 0, 1, 1]]
  )
  with pytest.raises(ValueError, match="vision_frame_embedding is"):
    to_params(tensors, TABLE, target=target(num_frames=4))


def test_an_integer_or_a_scalar_is_placed(tensors):
  tensors["temperature"] = np.array(3)
  loaded = to_params(tensors, TABLE, target=target())
  assert loaded.params["temperature"].shape == ()
  assert loaded.params["temperature"] == 3.0


def test_parameters_that_do_not_fit_the_table_are_refused(tensors):
  params = to_params(tensors, TABLE, target=target()).params
  del params["norm"]
  with pytest.raises(ValueError, match=r"lack 2 of the table:\s*norm/scale"):
    to_tensors(params, TABLE)
  with pytest.raises(ValueError, match="blocks/fc/kernel should have 2 layers"):
    to_tensors(
      to_params(tensors, TABLE).params,
      stacked(dense("layers.{layer}.fc", "blocks/fc"), 2),
    )


def test_a_prefix_goes_before_keys_copies_and_paths(tensors):
  below = prefixed(TABLE, key="vision.", path="encoders_a/")
  loaded = to_params({f"vision.{k}": v for k, v in tensors.items()}, below)
  assert loaded.missing == loaded.unexpected == []
  assert set(loaded.params) == {"encoders_a"}


def test_constants_are_checked_and_written(tensors):
  table = [
    *TABLE,
    Constant("ids", np.arange(3)[None]),
    Constant("turns", np.ones(2), checked=False),
  ]
  given = {**tensors, "ids": np.arange(3)[None], "turns": np.zeros(2)}
  loaded = to_params(given, table, target=target())
  assert loaded[1:] == ([], [], [], {})
  written = dict(to_state_dict(loaded.params, table))
  assert list(written) == list(given)
  assert written["ids"].tolist() == [[0, 1, 2]] and written["turns"].all()
  assert to_params(tensors, table).missing == []
  with pytest.raises(ValueError, match=r"ids has to be .*give the module the"):
    to_params({**given, "ids": np.arange(4)[None]}, table)
