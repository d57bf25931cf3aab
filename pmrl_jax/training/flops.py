"""Operations of a step, counted in the program before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def matmul_flops(jaxpr: ClosedJaxpr | Jaxpr) -> float:
  """Operations of the matrix products and convolutions of a program.

  Counted in the traced program, where XLA's own count takes the body of a
  loop, hence a stack of layers, for one round. A loop whose number of rounds
  is not known, and a kernel written by hand, are counted as one round.

  Args:
    jaxpr: The program, over all devices.
  """
  total = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      total += _product(equation)
    elif name == "conv_general_dilated":
      total += _convolution(equation)
    parts = [matmul_flops(part) for part in _parts(params)]
    if name == "cond":
      total += max(parts)
    elif name == "scan":
      total += params["length"] * sum(parts)
    elif name == "shard_map":  # shapes within are those of one device
      sizes = params["mesh"].shape
      # Releases of jax differ in the name.
      axes = params.get("newly_manual_axes", params.get("manual_axes", sizes))
      total += sum(parts) * math.prod(sizes[axis] for axis in axes)
    else:
      total += sum(parts)
  return total


def _parts(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
  """The programs within an equation."""
  for leaf in jax.tree.leaves(
    params, is_leaf=lambda x: isinstance(x, Jaxpr | ClosedJaxpr)
  ):
    if isinstance(leaf, Jaxpr | ClosedJaxpr):
      yield leaf


def _product(equation: Any) -> float:
  (contracting, _), _ = equation.params["dimension_numbers"]
  shape = equation.invars[0].aval.shape
  summed = math.prod(shape[axis] for axis in contracting)
  return 2.0 * equation.outvars[0].aval.size * summed


def _convolution(equation: Any) -> float:
  """Each output sums over the kernel, but for what dilation filled up."""
  kernel = equation.invars[1].aval
  outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
  filled = math.prod(equation.params["lhs_dilation"])
  size = equation.outvars[0].aval.size
  return 2.0 * size * kernel.size / outputs / filled
