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
  "lifted, gram": {"orientation": "lifted", "solver": "gram"},
  "pairs": {"contrast": "pairs", "solver": "gram"},
}
each_setting = pytest.mark.parametrize("name", SETTINGS)


def value_and_grad(name):
  def loss(x, where, ids):
    result = pmrl_loss(x, where=where, ids=ids, **SETTINGS[name])
    return result.loss, result

  return jax.value_and_grad(loss, has_aux=True)


def inputs(rng, *batch, dtype=np.float32):
  where = rng.random((*batch, 3)) < 0.8
  ids = rng.integers(0, 20, batch)
  return rng.normal(size=(*batch, 3, 4)).astype(dtype), where, ids


@each_setting
def test_jit_equals_eager(rng, name):
  arguments = inputs(rng, 16)
  run = value_and_grad(name)
  chex.assert_trees_all_close(
    jax.jit(run)(*arguments), run(*arguments), rtol=1e-4, atol=1e-6
  )


@each_setting
def test_vmap_equals_one_batch_after_another(rng, name):
  arguments = inputs(rng, 3, 8)
  run = jax.jit(value_and_grad(name))
  one_by_one = [run(*[a[i] for a in arguments]) for i in range(3)]
  stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *one_by_one)
  chex.assert_trees_all_close(
    jax.jit(jax.vmap(value_and_grad(name)))(*arguments),
    stacked,
    rtol=1e-4,
    atol=1e-6,
  )


@each_setting
def test_sharded_over_8_devices_equals_one_device(rng, name):
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  by_batch = NamedSharding(mesh, PartitionSpec("data"))
  arguments = inputs(rng, 32)
  run = jax.jit(value_and_grad(name))
  expected = run(*arguments)
  sharded = jax.device_put(arguments, by_batch)
  actual = run(*sharded)
  assert actual[1].sharding.is_equivalent_to(by_batch, 3)
  chex.assert_trees_all_close(
    jax.device_get(actual), jax.device_get(expected), rtol=1e-4, atol=1e-6
  )

  # Embeddings travel between devices; the logits [32, 32] must not.
  program = run.lower(*sharded).compile().as_text()
  gathered = re.findall(r"\w+\[([\d,]+)\]\S* all-gather", program)
  assert gathered
  for shape in gathered:
    assert np.prod([int(n) for n in shape.split(",")]) <= 32 * 3 * 4


@each_setting
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(rng, name, dtype):
  x, where, ids = inputs(rng, 16)
  half = jnp.asarray(x, dtype)
  run = jax.jit(value_and_grad(name))
  (loss, result), gradient = run(half, where, ids)
  expected, expected_gradient = run(half.astype(jnp.float32), where, ids)
  assert gradient.dtype == dtype
  chex.assert_tree_all_finite(gradient)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(result))
  chex.assert_trees_all_close((loss, result), expected, rtol=1e-5, atol=1e-6)
  chex.assert_trees_all_close(
    gradient.astype(jnp.float32),
    expected_gradient,
    rtol=float(jnp.finfo(dtype).eps),
    atol=1e-4,
  )


@each_setting
def test_float64_stays_float64(rng, x64, name):
  (_, result), gradient = value_and_grad(name)(
    *inputs(rng, 4, dtype=np.float64)
  )
  for leaf in jax.tree.leaves((result, gradient)):
    assert leaf.dtype == jnp.float64


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_forward_and_reverse_mode_agree(rng, x64, solver):
  x = rng.normal(size=(4, 3, 4))

  def loss(x):
    return pmrl_loss(x, solver=solver, orientation="lifted").loss

  chex.assert_trees_all_close(
    jax.jit(jax.jacfwd(loss))(x), jax.jit(jax.jacrev(loss))(x), rtol=1e-9
  )


def test_any_kind_of_array_is_accepted(rng):
  x = rng.normal(size=(4, 3, 4)).astype(np.float32)
  chex.assert_trees_all_equal(pmrl_loss(x), pmrl_loss(jnp.asarray(x)))
  where = np.ones((4, 3), bool)
  chex.assert_trees_all_close(
    pmrl_loss(x, where=where), pmrl_loss(x), rtol=1e-6
  )
