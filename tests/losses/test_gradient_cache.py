"""A large batch from micro-batches: the same gradient, in less memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import (
  bounded_temperature,
  gradient_cache,
  pairwise_contrastive_loss,
  pmrl_loss,
)

BATCH, FEATURES, WIDTH, DIM = 12, 5, 16, 4
assert_close = functools.partial(
  chex.assert_trees_all_close, rtol=2e-5, atol=2e-6
)


def dropout(x, key):
  return x * jax.random.bernoulli(key, 0.7, x.shape) / 0.7


def encode(params, batch):
  """Two encoders; each instance brings the key of its own dropout."""
  hidden = jnp.tanh(jnp.einsum("bnf,nfw->bnw", batch["x"], params["in"]))
  hidden = jax.vmap(dropout)(hidden, batch["keys"])
  return jnp.einsum("bnw,nwd->bnd", hidden, params["out"]), batch["where"]


def inputs():
  rng = np.random.default_rng(0)
  params = {
    "in": rng.normal(size=(2, FEATURES, WIDTH)).astype(np.float32),
    "out": rng.normal(size=(2, WIDTH, DIM)).astype(np.float32),
    "log_temperature": np.float32(np.log(0.2)),
  }
  batch = {
    "x": rng.normal(size=(BATCH, 2, FEATURES)).astype(np.float32),
    "where": rng.random((BATCH, 2)) < 0.9,
    "keys": jax.random.split(jax.random.key(1), BATCH),
  }
  return params, batch


def pmrl(embeddings, where, temperature):
  return pmrl_loss(
    embeddings, where=where, instance_temperature=temperature, solver="gram"
  ).loss


def pairwise(embeddings, where, temperature):
  return jnp.mean(
    pairwise_contrastive_loss(embeddings, where=where, temperature=temperature)
  )


@functools.cache
def run(encode, loss):
  def objective(params, *arguments):
    temperature = bounded_temperature(params["log_temperature"])
    return loss(*encode(params, *arguments), temperature)

  return jax.jit(jax.value_and_grad(objective))


@pytest.mark.parametrize("loss", [pmrl, pairwise])
@pytest.mark.parametrize("size", [1, 4, 5, 12, 100])
def test_gradient_is_that_of_the_large_batch(loss, size):
  cached = gradient_cache(encode, micro_batch_size=size)
  assert_close(run(cached, loss)(*inputs()), run(encode, loss)(*inputs()))


def test_outputs_keep_their_order():
  params, batch = inputs()
  cached = jax.jit(gradient_cache(encode, micro_batch_size=5))
  assert_close(cached(params, batch), jax.jit(encode)(params, batch))


def test_dropout_of_a_micro_batch_is_the_same_in_both_passes():
  """With one key: equal to a large batch that draws its dropout likewise."""
  size = 4

  def encode_with_key(params, batch, key):
    hidden = jnp.einsum("bnf,nfw->bnw", batch["x"], params["in"])
    return jnp.einsum("bnw,nwd->bnd", dropout(hidden, key), params["out"])

  def by_hand(params, batch, key):
    keys = jax.random.split(key, BATCH // size)
    # Instance i goes to micro-batch i mod 3.
    parts = [
      encode_with_key(params, jax.tree.map(lambda x, i=i: x[i::3], batch), k)
      for i, k in enumerate(keys)
    ]
    return jnp.stack(parts, axis=1).reshape(BATCH, 2, DIM)

  def gradient(function):
    def objective(params, batch, key):
      return pmrl(function(params, batch, key), None, 0.2)

    return jax.jit(jax.value_and_grad(objective))

  params, batch = inputs()
  batch = {"x": batch["x"]}
  key = jax.random.key(3)
  cached = gradient_cache(encode_with_key, micro_batch_size=size)
  actual = gradient(cached)(params, batch, key)
  assert_close(actual, gradient(by_hand)(params, batch, key))
  other = gradient(cached)(params, batch, jax.random.key(4))
  assert abs(actual[0] - other[0]) > 1e-4


def test_sharded_batch_gives_the_same_gradient_and_sends_no_inputs():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  params, batch = inputs()
  del batch["keys"]
  batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

  def encode_plainly(params, batch):
    hidden = jnp.tanh(jnp.einsum("bnf,nfw->bnw", batch["x"], params["in"]))
    return jnp.einsum("bnw,nwd->bnd", hidden, params["out"]), batch["where"]

  cached = gradient_cache(encode_plainly, micro_batch_size=4)
  program = run(cached, pmrl).lower(params, batch).compile()
  plain = jax.device_get(
    run(encode_plainly, pmrl)(*jax.device_get((params, batch)))
  )
  assert_close(jax.device_get(program(params, batch)), plain)
  text = program.as_text()
  # Neither inputs nor activations leave their device.
  for line in text.splitlines():
    if " all-gather(" in line or " all-to-all(" in line:
      assert f",{FEATURES}]" not in line and f",{WIDTH}]" not in line, line


def test_memory_is_that_of_a_micro_batch():
  depth, width = 32, 32
  params = jnp.zeros((depth, width, width))
  batch = jnp.zeros((4096, width))

  def deep(params, batch):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), batch, params)[0]

  def temporary_bytes(encode):
    def objective(params, batch):
      return jnp.sum(encode(params, batch) ** 2)

    program = jax.jit(jax.grad(objective)).lower(params, batch).compile()
    return program.memory_analysis().temp_size_in_bytes

  cached = gradient_cache(deep, micro_batch_size=256)
  activations = depth * batch.size * 4
  assert temporary_bytes(deep) > activations
  # Embeddings and their cotangents stay, [batch, dim] each.
  assert temporary_bytes(cached) < activations / 2


@pytest.mark.parametrize("size", [1.0, "8", True])
def test_size_that_is_no_integer(size):
  with pytest.raises(TypeError, match="positive integer, got"):
    gradient_cache(encode, micro_batch_size=size)


@pytest.mark.parametrize("size", [0, -1])
def test_size_that_is_not_positive(size):
  with pytest.raises(ValueError, match=f"positive integer, got {size}"):
    gradient_cache(encode, micro_batch_size=size)


def test_leaves_that_are_no_batch():
  cached = gradient_cache(lambda params, batch: batch, micro_batch_size=2)
  for batch in ([np.ones(4), np.ones(3)], [np.ones(4), 1.0], np.ones((0, 2))):
    with pytest.raises(ValueError, match="same batch, at least 1, got"):
      cached(None, batch)
