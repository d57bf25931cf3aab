import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import PUBLISHED, pmrl_loss

SETTINGS = {
  "default": {},
  "published": PUBLISHED,
  "lifted": {"orientation": "lifted", "solver": "gram"},
  "pairs": {"contrast": "pairs", "solver": "gram"},
}
BATCH = 16

each_setting = pytest.mark.parametrize("name", SETTINGS)
assert_close = functools.partial(
  chex.assert_trees_all_close, rtol=1e-4, atol=1e-5
)


@functools.cache
def value_and_grad(name):
  def loss(x, where, ids):
    result = pmrl_loss(x, where=where, ids=ids, **SETTINGS[name])
    return result.loss, result

  return jax.value_and_grad(loss, has_aux=True)


@functools.cache
def compiled(name):
  return jax.jit(value_and_grad(name))


def inputs(rng, *batch, dtype=np.float32):
  where = rng.random((*batch, 3)) < 0.8
  ids = rng.integers(0, 12, batch, np.int32)
  return rng.normal(size=(*batch, 3, 4)).astype(dtype), where, ids


def test_jit_equals_eager(rng):
  x, where, ids = inputs(rng, BATCH)
  eager = pmrl_loss(x, where=where, ids=ids, **PUBLISHED)
  (_, result), _ = compiled("published")(x, where, ids)
  assert_close(result, eager)


@pytest.mark.parametrize("name", ["default", "published"])
def test_vmap_equals_one_batch_after_another(rng, name):
  arguments = inputs(rng, 2, BATCH)
  one_by_one = [compiled(name)(*[a[i] for a in arguments]) for i in range(2)]
  stacked = jax.tree.map(lambda *parts: np.stack(parts), *one_by_one)
  assert_close(jax.jit(jax.vmap(value_and_grad(name)))(*arguments), stacked)


@each_setting
def test_sharded_over_8_devices_equals_one_device(rng, name):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  by_batch = NamedSharding(mesh, PartitionSpec("data"))
  arguments = inputs(rng, BATCH)
  sharded = jax.device_put(arguments, by_batch)
  program = jax.jit(value_and_grad(name)).lower(*sharded).compile()
  actual = program(*sharded)
  assert actual[1].sharding.is_equivalent_to(by_batch, 3)
  assert_close(
    jax.device_get(actual), jax.device_get(compiled(name)(*arguments))
  )


@pytest.mark.parametrize(
  "name,dtype",
  [
    ("default", jnp.bfloat16),
    ("default", jnp.float16),
    ("published", jnp.bfloat16),
  ],
)
def test_half_precision_is_computed_in_float32(rng, name, dtype):
  x, where, ids = inputs(rng, BATCH)
  half = x.astype(dtype)
  (loss, result), gradient = compiled(name)(half, where, ids)
  expected, expected_gradient = compiled(name)(
    half.astype(np.float32), where, ids
  )
  assert gradient.dtype == dtype
  assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(result))
  assert_close((loss, result), expected)
  np.testing.assert_allclose(
    gradient.astype(np.float32),
    expected_gradient,
    rtol=float(jnp.finfo(dtype).eps),
    atol=1e-5,
  )


@each_setting
def test_float64_stays_float64(rng, x64, name):
  outputs = jax.eval_shape(
    value_and_grad(name), *inputs(rng, BATCH, dtype=np.float64)
  )
  assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(outputs))


def test_a_step_holds_one_batch_of_decompositions(
  orientation, contrast, solver
):
  # Two side by side can block each other in the CPU's thread pool.
  def loss(x):
    return pmrl_loss(
      x, orientation=orientation, contrast=contrast, solver=solver
    ).loss

  example = jax.ShapeDtypeStruct((BATCH, 3, 4), jnp.float32)
  program = jax.jit(jax.value_and_grad(loss)).lower(example).compile()
  calls = re.findall(r'custom_call_target="lapack_\w+"', program.as_text())
  assert len(calls) == 1
