"""Every way to the same loss: dense, blocks, gathered, ring, sharded, pmap.

The reference is the dense loss on one device. Parameters make the embeddings,
so that gradients cross devices as in training.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import (
  PUBLISHED,
  area_contrastive_loss,
  instance_contrastive_loss,
  pairwise_contrastive_loss,
  pmrl_loss,
  product_contrastive_loss,
  sigmoid_contrastive_loss,
  volume_contrastive_loss,
)

# Odd shares of the batch: 3 on each of 8 devices, 12 on 2; blocks of 5.
BATCH, NUM_MODALITIES, DIM = 24, 3, 6


def pmrl(**options):
  def loss(x, **arguments):
    return pmrl_loss(x, **options, **arguments).loss

  return loss


def mean_of(function, **options):
  def loss(x, *, axis_name=None, **arguments):
    if axis_name is None:
      return jnp.mean(function(x, **options, **arguments))
    losses = function(x, axis_name=axis_name, **options, **arguments)
    return jax.lax.pmean(jnp.mean(losses), axis_name)

  return loss


def of_directions(x, where, **options):
  return instance_contrastive_loss(x[:, 0], where=where[:, 0], **options)


LOSSES = {
  "pmrl": pmrl(solver="gram"),
  "pmrl_published": pmrl(**PUBLISHED, solver="gram"),
  "pmrl_modalities": pmrl(contrast="modalities", label_smoothing=0.1),
  "pmrl_pairs": pmrl(contrast="pairs", orientation="lifted", solver="gram"),
  "instance": mean_of(of_directions, temperature=0.2),
  "pairwise": mean_of(pairwise_contrastive_loss, temperature=0.2),
  "pairwise_positives": mean_of(
    pairwise_contrastive_loss,
    temperature=0.2,
    positives="ids",
    label_smoothing=0.2,
  ),
  "anchor": mean_of(
    pairwise_contrastive_loss, temperature=0.2, pairs="anchor", anchor=1
  ),
  "sigmoid": mean_of(
    sigmoid_contrastive_loss, temperature=0.2, bias=-2.0, positives="ids"
  ),
  "volume": mean_of(
    volume_contrastive_loss,
    temperature=0.2,
    anchor=1,
    positives="ids",
    label_smoothing=0.1,
  ),
  "area": mean_of(area_contrastive_loss, temperature=0.2),
  "product": mean_of(
    product_contrastive_loss,
    temperature=0.2,
    key=jax.random.key(3),
    label_smoothing=0.1,
  ),
  "product_all": mean_of(
    product_contrastive_loss, temperature=0.2, negatives="all"
  ),
}
each_loss = pytest.mark.parametrize("name", LOSSES)
# Each program takes seconds to compile. One loss of a kind takes every route in
# the normal suite, the others of its kind in the slow one.
FIRST = ("pmrl", "pmrl_modalities", "instance", "pairwise", "sigmoid", "volume")
each_loss_first_kinds_fast = pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in FIRST else pytest.mark.slow)
    for name in LOSSES
  ],
)


def inputs(dtype=np.float32):
  rng = np.random.default_rng(0)
  batch = {
    "x": rng.normal(size=(BATCH, NUM_MODALITIES, 4)).astype(dtype),
    "where": rng.random((BATCH, NUM_MODALITIES)) < 0.8,
    "ids": rng.integers(0, 16, BATCH, np.int32),
  }
  params = {
    "kernel": rng.normal(size=(NUM_MODALITIES, 4, DIM)).astype(dtype),
    "log_temperature": np.log(dtype(0.3)),
  }
  return params, batch


def objective(name, **route):
  """`(params, batch) -> loss` whose temperature is learned as well."""

  def loss(params, batch):
    x = jnp.einsum("bnf,nfd->bnd", batch["x"], params["kernel"])
    # Temperatures enter through the loss, not through the embeddings.
    scale = jnp.exp(params["log_temperature"]).astype(jnp.float32)
    masks = {key: batch[key] for key in ("where", "ids") if key in batch}
    if "where" not in masks and name == "instance":
      masks["where"] = jnp.ones(batch["x"].shape[:2], bool)
    return scale * LOSSES[name](x, **masks, **route)

  return loss


@functools.cache
def expected(name, dtype=np.float32):
  with jax.default_device(jax.devices()[0]):
    params, batch = inputs(dtype)
    return jax.device_get(
      jax.jit(jax.value_and_grad(objective(name)))(params, batch)
    )


def mesh_of(num_devices, kind=AxisType.Auto):
  return jax.make_mesh(
    (num_devices,),
    ("data",),
    axis_types=(kind,),
    devices=jax.devices()[:num_devices],
  )


assert_close = functools.partial(
  chex.assert_trees_all_close, rtol=2e-5, atol=2e-6
)


def in_blocks(name, block_size):
  return jax.jit(jax.value_and_grad(objective(name, block_size=block_size)))


@each_loss
def test_blocks_equal_dense(name):
  # Four blocks of 5, and one of 4.
  assert_close(in_blocks(name, 5)(*inputs()), expected(name))


@pytest.mark.parametrize("block_size", [1, 8, 24, 1000])
def test_size_of_blocks_does_not_matter(block_size):
  assert_close(in_blocks("pmrl", block_size)(*inputs()), expected("pmrl"))


def mapped(name, num_devices, *, check_vma=True, **route):
  """The loss and the averaged gradient, inside `shard_map`."""
  loss = objective(name, axis_name="data", **route)

  def step(params, batch):
    return jax.lax.pmean(jax.value_and_grad(loss)(params, batch), "data")

  return jax.jit(
    jax.shard_map(
      step,
      mesh=mesh_of(num_devices),
      in_specs=(PartitionSpec(), PartitionSpec("data")),
      out_specs=PartitionSpec(),
      check_vma=check_vma,
    )
  )


ROUTES = {
  "gathered": {},
  "blocks": {"block_size": 5},
  "ring": {"ring": True},
  "ring_blocks": {"ring": True, "block_size": 2},
}


@each_loss_first_kinds_fast
@pytest.mark.parametrize(
  "route", ["gathered", pytest.param("blocks", marks=pytest.mark.slow)]
)
def test_gathered_equals_one_device(name, route):
  run = mapped(name, 8, **ROUTES[route])
  assert_close(run(*inputs()), expected(name))


@each_loss_first_kinds_fast
def test_ring_equals_one_device(name):
  if name == "product_all":  # Its tuples need all instances at once.
    with pytest.raises(ValueError, match="'all'.*, whose tuples need the inst"):
      mapped(name, 8, ring=True)(*inputs())
    return
  run = mapped(name, 8, **ROUTES["ring_blocks"])
  assert_close(run(*inputs()), expected(name))


@pytest.mark.parametrize("num_devices", [1, 2])
@pytest.mark.parametrize("route", ROUTES)
def test_number_of_devices_does_not_matter(num_devices, route):
  actual = mapped("pmrl", num_devices, **ROUTES[route])(*inputs())
  assert_close(actual, expected("pmrl"))


@pytest.mark.parametrize("name", ["pmrl", "pairwise", "product"])
@pytest.mark.parametrize("route", ["gathered", "ring_blocks"])
def test_shard_map_without_its_checks_equals_one_device(name, route):
  run = mapped(name, 2, check_vma=False, **ROUTES[route])
  assert_close(run(*inputs()), expected(name))


@pytest.mark.parametrize(
  "name", ["pmrl", "pmrl_published", "pairwise", "product"]
)
def test_pmap_equals_one_device(name):
  loss = objective(name, axis_name="data", **ROUTES["gathered"])

  @functools.partial(jax.pmap, axis_name="data", in_axes=(None, 0))
  def step(params, batch):
    return jax.lax.pmean(jax.value_and_grad(loss)(params, batch), "data")

  params, batch = inputs()
  split = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)
  actual = jax.tree.map(lambda x: x[0], jax.device_get(step(params, split)))
  assert_close(actual, expected(name))


@each_loss_first_kinds_fast
@pytest.mark.parametrize("route", ["dense", "blocks"])
def test_sharded_jit_equals_one_device(name, route):
  mesh = mesh_of(8)
  params, batch = inputs()
  batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  options = {} if route == "dense" else {"block_size": 5}
  run = jax.jit(jax.value_and_grad(objective(name, **options)))
  assert_close(jax.device_get(run(params, batch)), expected(name))


@pytest.mark.parametrize("route", ["blocks", "ring_blocks"])
def test_half_precision_takes_the_same_routes(route):
  dtype = jnp.bfloat16
  params, batch = inputs()
  x = jnp.einsum("bnf,nfd->bnd", batch["x"], params["kernel"]).astype(dtype)

  def value_and_grad(**options):
    def loss(x, where):
      return pmrl_loss(x, where=where, solver="gram", **options).loss

    return jax.value_and_grad(loss)

  dense = jax.jit(value_and_grad())(x, batch["where"])
  options = {"block_size": 5}
  if route == "ring_blocks":
    options = {"axis_name": "data", **ROUTES[route]}
  run = value_and_grad(**options)
  if "axis_name" in options:
    split = PartitionSpec("data")
    run = jax.shard_map(
      run, mesh=mesh_of(8), in_specs=split, out_specs=(PartitionSpec(), split)
    )
  value, gradient = jax.jit(run)(x, batch["where"])
  assert gradient.dtype == dtype and value.dtype == jnp.float32
  np.testing.assert_allclose(value, dense[0], rtol=1e-5)
  # One rounding to the dtype of what comes in.
  np.testing.assert_allclose(
    gradient.astype(jnp.float32),
    dense[1].astype(jnp.float32),
    rtol=2 * float(jnp.finfo(dtype).eps),
    atol=1e-5,
  )
