"""The mesh and the rules of how a state is split over it."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.benchmarks import steps
from pmrl_jax import training
from pmrl_jax.encoders import EvaVisionTransformer
from pmrl_jax.training import sharding
from pmrl_jax.training.fingerprint import fingerprint

MESHES = [{"data": 8}, {"fsdp": 8}, {"data": 4, "fsdp": 2}, {"fsdp": 4}]


def mesh_of(axes, devices=8):
  return training.make_mesh({"data": -1, **axes}, jax.devices()[:devices])


def test_sizes_are_given_or_left_over():
  assert dict(training.make_mesh().shape) == {"data": 8, "fsdp": 1}
  assert dict(training.make_mesh({"fsdp": 2}).shape) == {"data": 4, "fsdp": 2}
  both = training.make_mesh({"data": 2, "fsdp": -1}, jax.devices()[:6])
  assert dict(both.shape) == {"data": 2, "fsdp": 3}
  assert both.axis_names == ("data", "fsdp")


@pytest.mark.parametrize(
  ("axes", "message"),
  [
    ({"data": 3, "fsdp": 2}, "multiply to the 8 devices, got data=3, fsdp=2"),
    ({"fsdp": 3}, "what does: data=8, fsdp=1; data=4, fsdp=2; data=2, fsdp=4"),
    ({"data": 16}, "got data=16, fsdp=1"),
    ({"fsdp": 16}, "got data=-1, fsdp=16"),
    ({"data": -1, "fsdp": -1}, "at most one size of a mesh can be -1"),
    ({"data": 0}, "must be positive, or -1"),
    ({"fsdp": -2}, "must be positive, or -1"),
    ({"tensor": 2}, r"are \['data', 'fsdp'\], got \['tensor'\]"),
  ],
)
def test_sizes_that_are_no_mesh_are_explained(axes, message):
  with pytest.raises(ValueError, match=message):
    training.make_mesh(axes)


class _Device:
  """What the layout of a mesh asks of a device."""

  platform, device_kind, process_index = "cpu", "cpu", 0

  def __init__(self, index, slice_index):
    self.id, self.slice_index = index, slice_index


def test_data_spans_the_slices(monkeypatch):
  monkeypatch.setattr(
    sharding, "Mesh", lambda grid, names, axis_types: (grid, names)
  )
  # Slices in turns: they are told by their number, not by the order.
  devices = [_Device(index, index % 2) for index in range(8)]
  grid, _ = training.make_mesh({"data": -1, "fsdp": 2}, devices)
  slices = [[device.slice_index for device in row] for row in grid]
  assert slices == [[0, 0], [0, 0], [1, 1], [1, 1]]
  with pytest.raises(ValueError, match="in 2 slices, which data spans") as info:
    training.make_mesh({"fsdp": 8}, devices)
  assert str(info.value).endswith("data=4, fsdp=2; data=2, fsdp=4")


def test_every_large_parameter_of_the_published_model_is_split():
  case = steps.StepCase("full", 8, "bfloat16", True)
  state = jax.eval_shape(steps.make_step(case).start)
  state = state._replace(ema=state.params)
  placed = training.state_shardings(state, mesh_of({"fsdp": 8}))
  whole, split = {}, 0
  for (path, array), place in zip(
    jax.tree.leaves_with_path(state), jax.tree.leaves(placed)
  ):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    spec = place.spec
    if array.size >= sharding.MIN_SPLIT_SIZE:
      whole[name] = array.shape
    if "fsdp" in spec:
      split += 1
      del whole[name]
      assert array.shape[spec.index("fsdp")] % 8 == 0
      assert not ("/blocks/" in name and spec[0] == "fsdp"), name
  assert not whole
  assert split > 100
  # An update needs a parameter and its moments in the same place.
  kernel = "/encoders_vision/blocks/mlp/in/kernel"
  specs = {
    place.spec
    for path, place in jax.tree.leaves_with_path(placed)
    if jax.tree_util.keystr(path, simple=True, separator="/").endswith(kernel)
  }
  assert specs == {jax.P(None, None, "fsdp")}


@pytest.mark.parametrize(
  ("name", "shape", "spec"),
  [
    ("heads/kernel", (512, 1024), (None, "fsdp")),
    ("heads/kernel", (2048, 1024), ("fsdp",)),
    ("heads/kernel", (1024, 1023), ("fsdp",)),  # the next one that divides
    ("heads/kernel", (1025, 1023), ()),
    ("heads/bias", (1024,), ()),  # small
    ("text/blocks/mlp/kernel", (4096, 64, 8), (None, "fsdp")),
    ("text/blocks/mlp/kernel", (4096, 63, 9), ()),
    ("text/word_embeddings", (32768, 64), (None, "fsdp")),
  ],
)
def test_rules(name, shape, spec):
  tree = {name: jax.ShapeDtypeStruct(shape, jnp.float32)}
  place = training.state_shardings(tree, mesh_of({"fsdp": 8}))[name]
  assert place.spec == jax.P(*spec)
  place = training.state_shardings(tree, mesh_of({"data": 8}))[name]
  assert place.is_fully_replicated


def test_fingerprint_depends_on_values_alone():
  random = np.random.default_rng(0)
  tree = {
    "split": random.normal(size=(8, 512, 64)).astype(np.float32),
    "half": jnp.asarray(random.normal(size=(512, 256)), jnp.bfloat16),
    "flag": np.array([True, False]),
  }
  expected = fingerprint(jax.tree.map(jnp.asarray, tree))
  for axes in MESHES:
    mesh = mesh_of(axes)
    placed = jax.device_put(tree, training.state_shardings(tree, mesh))
    assert fingerprint(placed) == expected
  exchanged = tree | {"split": tree["split"][::-1]}
  assert fingerprint(jax.tree.map(jnp.asarray, exchanged)) != expected


class _Towers(nn.Module):
  """A stack of layers as in the published encoders, with stochastic depth."""

  @nn.compact
  def __call__(self, images, train):
    tower = EvaVisionTransformer(
      width=32,
      depth=3,
      num_heads=4,
      mlp_width=64,
      image_size=28,
      patch_size=14,
      head_width=0,
      drop_path_rate=0.4,
      remat="full",
    )
    tokens = tower(images, train=train)
    return nn.Dense(16, name="head")(tokens.mean(axis=1))


def _objective(params, batch, key):
  x = _Towers().apply({"params": params}, batch, True, rngs={"dropout": key})
  similarities = x @ x.T
  return jnp.mean((similarities - jnp.eye(len(x))) ** 2), {}


@pytest.fixture
def steps_of(monkeypatch):
  """`steps_of(axes, devices)`: a state, the step and a batch on a mesh."""
  monkeypatch.setattr(sharding, "MIN_SPLIT_SIZE", 2**9)
  images = np.random.default_rng(0).normal(size=(8, 28, 28, 3))
  images = images.astype(np.float32)
  optimizer = optax.adamw(1e-3)

  def start():
    params = _Towers().init(jax.random.key(0), images[:2], False)["params"]
    return training.create_state(params, optimizer, ema=True)

  def make(axes, devices=8):
    mesh = mesh_of(axes, devices)
    placed = training.state_shardings(jax.eval_shape(start), mesh)
    step = training.make_train_step(
      _objective,
      optimizer,
      schedule=lambda step: 1e-3,
      seed=0,
      max_skipped=2,
      mesh=mesh,
      shardings=placed,
      ema_decay=0.5,
    )
    state = jax.jit(start, out_shardings=placed)()
    return state, step, training.shard_batch(images, mesh)

  return make


@pytest.mark.slow
def test_layers_are_gathered_one_at_a_time_and_instances_never(steps_of):
  state, step, batch = steps_of({"fsdp": 8})
  text = step.lower(state, batch).compile().as_text()
  gathered = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather\(", text)
  shapes = [tuple(map(int, shape.split(","))) for shape in gathered]
  kernels = [shape for shape in shapes if shape[0] == 1]
  # Of a layer in the forward pass, and again in the backward pass.
  assert sorted(kernels) == sorted(
    2 * [(1, 32, 96), (1, 32, 32), (1, 32, 64), (1, 64, 32)]
  )
  # Others: that of the patches, the head, and what the objective compares.
  others = {shape for shape in shapes if shape[0] != 1}
  assert others <= {(14, 14, 3, 32), (32, 16), (16, 8), (8, 16)}


@pytest.mark.slow
def test_all_meshes_take_the_same_steps_and_keep_their_parts(steps_of):
  def run(axes, devices=8):
    state, step, batch = steps_of(axes, devices)
    losses = []
    for _ in range(3):
      state, metrics = step(state, batch)
      losses.append(float(metrics["loss"]))
    return losses, state

  expected, one = run({}, devices=1)
  average = jax.device_get(one.ema)
  for axes in MESHES[1:3]:
    losses, state = run(axes)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    chex.assert_trees_all_close(
      jax.device_get(state.params), jax.device_get(one.params), atol=1e-5
    )
    chex.assert_trees_all_close(jax.device_get(state.ema), average, atol=1e-5)
    for tree in (state.params, state.ema, state.opt_state[0].mu):
      kernel = tree["EvaVisionTransformer_0"]["blocks"]["mlp"]["in"]["kernel"]
      parts = {shard.data.shape for shard in kernel.addressable_shards}
      assert parts == {(3, 32, 64 // axes["fsdp"])}
