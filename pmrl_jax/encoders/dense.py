"""The linear layer of all encoders."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name

# The name of results for the policies of `jax.checkpoint`, which do not see
# that they come from products.
DENSE = "dense"

_NO_BATCH = ((), ())


def project(
  inputs: jax.Array,
  kernel: jax.Array,
  dimension_numbers: Any,
  precision: Any = None,
) -> jax.Array:
  """`lax.dot_general` of the last axis with the first of a matrix.

  Value and gradient are those of `lax.dot_general`. What differs is how the
  gradient of the kernel is written down for a CPU: as differentiation writes
  it under inputs of three and more axes, XLA first copies one side in another
  order, and the product takes up to twice as long.

  Derivatives are in reverse mode, any number of times over. To the policies
  of `jax.checkpoint` the result is known by the name `DENSE`.

  Args:
    inputs: [..., in].
    kernel: [in, out], of the same dtype.
    dimension_numbers: Those of this product and no other.
    precision: Of the products, those of the gradient included.

  Returns:
    [..., out].

  Raises:
    ValueError: If shapes or dimension numbers are those of another product.
  """
  expected = (((inputs.ndim - 1,), (0,)), _NO_BATCH)
  if dimension_numbers != expected or kernel.ndim != 2:
    raise ValueError(
      "expected inputs [..., in], a kernel [in, out] and the dimension numbers "
      f"{expected}, got shapes {inputs.shape} and {kernel.shape} and the "
      f"dimension numbers {dimension_numbers}"
    )
  return checkpoint_name(_project(precision, inputs, kernel), DENSE)


class Dense(nn.Dense):
  """`flax.linen.Dense` with `project` as its product.

  `dot_general=jax.lax.dot_general` gives back that of the base class, whose
  derivatives are in forward mode (`jax.jvp`) as well.
  """

  dot_general: Any = project


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _project(precision: Any, inputs: jax.Array, kernel: jax.Array) -> jax.Array:
  dimensions = (((inputs.ndim - 1,), (0,)), _NO_BATCH)
  return lax.dot_general(inputs, kernel, dimensions, precision=precision)


def _project_forward(
  precision: Any, inputs: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  return _project(precision, inputs, kernel), (inputs, kernel)


def _project_backward(
  precision: Any,
  residuals: tuple[jax.Array, jax.Array],
  outputs_bar: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  inputs, kernel = residuals
  product = functools.partial(lax.dot_general, precision=precision)

  def over_examples(inputs: jax.Array, outputs_bar: jax.Array) -> jax.Array:
    examples = tuple(range(inputs.ndim - 1))
    return product(inputs, outputs_bar, ((examples, examples), _NO_BATCH))

  def over_rows(inputs: jax.Array, outputs_bar: jax.Array) -> jax.Array:
    inputs = inputs.reshape(-1, inputs.shape[-1])
    outputs_bar = outputs_bar.reshape(-1, outputs_bar.shape[-1])
    return product(inputs, outputs_bar, (((0,), (0,)), _NO_BATCH))

  last = (outputs_bar.ndim - 1,)
  inputs_bar = product(outputs_bar, kernel, ((last, (1,)), _NO_BATCH))
  # Tiles of a TPU pad the axis of tokens, so merging axes would copy there.
  kernel_bar = lax.platform_dependent(
    inputs, outputs_bar, cpu=over_rows, default=over_examples
  )
  return inputs_bar, kernel_bar


_project.defvjp(_project_forward, _project_backward)
