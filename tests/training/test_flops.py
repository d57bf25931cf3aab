"""Operations are counted in the program, loops as often as they run."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pmrl_jax import training


def _flops(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return training.matmul_flops(jax.jit(function).trace(*arguments).jaxpr)


def _matmul(x, w):
  return x @ w


def test_a_product_counts_its_multiplications_and_additions():
  assert _flops(_matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
  assert _flops(jax.vmap(_matmul), (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
  assert _flops(jnp.add, (3, 5), (3, 5)) == 0


def test_a_gradient_counts_thrice():
  def loss(w, v, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ v))

  forward = 2 * 2 * 3 * 5 * 5
  # The input has no gradient.
  expected = 3 * forward - 2 * 3 * 5 * 5
  gradient = jax.grad(loss, argnums=(0, 1))
  assert _flops(gradient, (5, 5), (5, 5), (3, 5)) == expected


def test_a_stack_of_layers_counts_every_layer():
  def stack(x, layers):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, layers)[0]

  assert _flops(stack, (3, 5), (11, 5, 5)) == 11 * 2 * 3 * 5 * 5


def test_what_is_computed_again_counts_again():
  def stack(x, layers):
    layer = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None))
    return jnp.sum(jax.lax.scan(layer, x, layers)[0])

  gradient = jax.grad(stack, argnums=(0, 1))
  # Forward, forward again, and two products backward.
  expected = 4 * (11 * 2 * 3 * 5 * 5)
  assert _flops(gradient, (3, 5), (11, 5, 5)) == expected


def test_a_convolution_counts_its_taps():
  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
    )

  # 4 outputs of 6 channels, each of 2 x 2 pixels and half the channels.
  got = _flops(convolve, (1, 4, 4, 8), (2, 2, 4, 6))
  assert got == 2 * 4 * 6 * (2 * 2 * 4)


def test_parts_of_a_mesh_count_on_all_devices():
  mesh = training.make_mesh()
  split = PartitionSpec(mesh.axis_names)
  mapped = jax.shard_map(
    _matmul, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split
  )
  assert _flops(mapped, (16, 5), (5, 7)) == 2 * 16 * 5 * 7


def test_of_branches_the_longer_one_counts():
  def either(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)

  assert _flops(either, (3, 5), (5, 5)) == 2 * 2 * 3 * 5 * 5
