"""Operations of a step, counted in the program before it is compiled."""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: ClosedJaxpr | Jaxpr) -> float:
  """Operations of all matrix products and convolutions of a program.

  A multiplication and an addition each. What is computed again to save memory
  is counted again, and the body of a loop as often as it runs, where XLA
  counts it once. A loop that ends by a condition counts once, too; of a branch
  the one with most operations counts.

  Args:
    jaxpr: The program, of all devices together.
  """
  jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
  return float(sum(_of_equation(equation) for equation in jaxpr.eqns))


def _of_equation(equation: Any) -> float:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    terms = math.prod(shape[axis] for axis in contracted)
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * terms
  if name == "conv_general_dilated":
    return _of_convolution(equation)
  inner = [count(each) for each in _programs(params)]
  if name == "cond":
    return max(inner)
  times = 1
  if name == "scan":
    times = params["length"]
  elif name == "shard_map":  # the program of one device
    sizes = params["mesh"].shape
    # Which axes these are has another name in other versions of jax.
    axes = params.get("newly_manual_axes", params.get("manual_axes", sizes))
    times = math.prod(sizes[axis] for axis in axes)
  return times * sum(inner)


def _of_convolution(equation: Any) -> float:
  kernel = equation.invars[1].aval.shape
  out_axis = equation.params["dimension_numbers"].rhs_spec[0]
  terms = math.prod(kernel) // kernel[out_axis]
  return 2.0 * math.prod(equation.outvars[0].aval.shape) * terms


def _programs(params: dict[str, Any]) -> Iterator[ClosedJaxpr | Jaxpr]:
  """The programs that an equation runs."""
  leaves = jax.tree.leaves(
    params, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)
  )
  for leaf in leaves:
    if isinstance(leaf, ClosedJaxpr | Jaxpr):
      yield leaf
