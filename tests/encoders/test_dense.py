"""The linear layer: what flax.linen's does, gradients written otherwise."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from pmrl_jax.encoders.dense import Dense, project
from pmrl_jax.encoders.stack import apply_blocks

WIDTH = 8


def layers_and_inputs(*shape, dtype=jnp.float32):
  """Ours, that of flax, their parameters and inputs."""
  inputs = jax.random.normal(jax.random.key(0), (*shape, WIDTH), dtype)
  ours, theirs = Dense(5, dtype=dtype), nn.Dense(5, dtype=dtype)
  variables = theirs.init(jax.random.key(1), inputs)
  chex.assert_trees_all_equal(variables, ours.init(jax.random.key(1), inputs))
  return ours, theirs, variables, inputs


def energy(layer, variables, inputs):
  return (layer.apply(variables, inputs).astype(jnp.float32) ** 3).sum()


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_are_those_of_flax(shape, dtype):
  ours, theirs, variables, inputs = layers_and_inputs(*shape, dtype=dtype)
  value_and_grad = jax.value_and_grad(energy, argnums=(1, 2))
  ours, theirs = (
    value_and_grad(layer, variables, inputs) for layer in (ours, theirs)
  )
  chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
  rtol = 1e-5 if dtype == jnp.float32 else 2e-2
  chex.assert_trees_all_close(ours, theirs, rtol=rtol, atol=rtol)


def test_gradients_have_gradients_and_are_mapped_over():
  ours, theirs, variables, inputs = layers_and_inputs(2, 3)

  def steepness(layer, variables, inputs):
    slope = jax.grad(energy, argnums=1)(layer, variables, inputs)
    return sum(x.sum() for x in jax.tree.leaves(slope))

  for function in (
    jax.grad(steepness, argnums=2),
    jax.vmap(jax.grad(energy, argnums=1), in_axes=(None, None, 0)),
  ):
    chex.assert_trees_all_close(
      *(function(layer, variables, inputs) for layer in (ours, theirs)),
      rtol=1e-4,
      atol=1e-4,
    )


def test_the_product_of_jax_gives_forward_mode():
  _, theirs, variables, inputs = layers_and_inputs(2, 3)
  ours = Dense(5, dot_general=jax.lax.dot_general)
  tangents = [
    jax.jvp(functools.partial(energy, x, variables), (inputs,), (inputs,))
    for x in (ours, theirs)
  ]
  chex.assert_trees_all_close(*tangents, rtol=1e-6)


def test_another_product_is_refused():
  inputs, kernel = jnp.ones((2, 3)), jnp.ones((2, 5))
  with pytest.raises(ValueError, match=r"expected inputs \[\.\.\., in\].*3"):
    project(inputs, kernel, (((0,), (0,)), ((), ())))
  with pytest.raises(ValueError, match="a kernel"):
    project(inputs, jnp.ones((3, 5, 1)), (((1,), (0,)), ((), ())))


class Block(nn.Module):
  """A layer and something that costs no product."""

  @nn.compact
  def __call__(self, x: jax.Array, per_layer: None) -> jax.Array:
    del per_layer
    return jnp.sin(Dense(WIDTH)(x))


class Stack(nn.Module):
  """Blocks under a policy."""

  remat: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return apply_blocks(Block(), x, depth=2, remat=self.remat)


def test_remat_dots_keeps_the_products_and_full_none():
  inputs = jnp.ones((2, 3, WIDTH))

  def products(remat):
    """Products in the gradient; those computed again come on top."""
    stack = Stack(remat)
    variables = stack.init(jax.random.key(0), inputs)
    gradient = jax.grad(lambda v: stack.apply(v, inputs).sum())
    lowered = jax.jit(gradient).lower(variables).compile()
    return lowered.as_text().count(" dot(")

  none, dots, full = (products(x) for x in ("none", "dots", "full"))
  assert dots == none
  assert full == none + 1
