"""LayerNorm: what flax.linen's does, its gradient written otherwise."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders.layer_norm import LayerNorm

WIDTH, EPSILON = 8, 1e-5


def layers_and_inputs(*shape, dtype=jnp.float32):
  """Ours, that of flax, parameters and inputs."""
  keys = jax.random.split(jax.random.key(0), 3)
  x = 3 + jax.random.normal(keys[0], (*shape, WIDTH), dtype)
  ours = LayerNorm(EPSILON, dtype=dtype)
  theirs = nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, dtype=dtype)
  start = theirs.init(keys[1], x)
  chex.assert_trees_all_equal(start, ours.init(keys[1], x))
  scale, bias = jax.random.normal(keys[2], (2, WIDTH))
  return ours, theirs, {"params": {"scale": scale, "bias": bias}}, x


def energy(layer, variables, x):
  return (layer.apply(variables, x).astype(jnp.float32) ** 3).sum()


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_are_those_of_flax(shape, dtype):
  *layers, variables, x = layers_and_inputs(*shape, dtype=dtype)
  value_and_grad = jax.value_and_grad(energy, argnums=(1, 2))
  ours, theirs = (value_and_grad(layer, variables, x) for layer in layers)
  chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
  share = 1e-5 if dtype == jnp.float32 else 1e-2  # of the largest number
  for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
    a, b = (np.asarray(each, np.float32) for each in (a, b))
    np.testing.assert_allclose(a, b, rtol=0, atol=share * abs(b).max())


def test_gradients_have_gradients_and_are_mapped_over():
  *layers, variables, x = layers_and_inputs(2, 3)

  def steepness(layer, variables, x):
    slope = jax.grad(energy, argnums=(1, 2))(layer, variables, x)
    return sum(jnp.sin(leaf).sum() for leaf in jax.tree.leaves(slope))

  for function in (
    jax.grad(steepness, argnums=2),
    jax.vmap(jax.grad(energy, argnums=1), in_axes=(None, None, 0)),
  ):
    ours, theirs = (function(layer, variables, x) for layer in layers)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_statistics_are_float32_whatever_comes_in():
  """In bfloat16 the odd ones of these numbers would be even."""
  x = jnp.asarray([256.0, 257.0, 258.0, 259.0], jnp.float32)
  layer = LayerNorm(EPSILON, dtype=jnp.bfloat16)
  y, _ = layer.init_with_output(jax.random.key(0), x)
  assert y.dtype == jnp.bfloat16
  chex.assert_trees_all_close(
    y.astype(jnp.float32), (x - 257.5) / 1.25**0.5, rtol=1e-2
  )


def test_the_backward_pass_keeps_the_input_as_it_came():
  """Apart from it, and from parameters, only numbers of rows."""
  ours, theirs, variables, x = layers_and_inputs(64, dtype=jnp.bfloat16)

  def kept(layer):
    _, backward = jax.vjp(layer.apply, variables, x)
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward))

  assert kept(ours) <= x.nbytes + 64 * 2 * 4 + 2 * WIDTH * 4
  assert kept(theirs) > 2 * kept(ours)
