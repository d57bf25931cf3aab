"""Gradients in float16: a scale of the loss keeps them within its range.

Reference: Micikevicius, Narang, Alben, Diamos, Elsen, Garcia, Ginsburg,
Houston, Kuchaiev, Venkatesh, Wu, Mixed Precision Training, arXiv 1710.03740.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.training.dynamic_scale import DynamicScale


class Gradient(NamedTuple):
  """What a step learns from its batch."""

  loss: jax.Array  # []
  terms: dict[str, jax.Array]
  grads: Any  # of the loss without its scale
  loss_scale: DynamicScale | None  # for the next step
  rescaled: jax.Array | bool  # bool []: too large a scale may be to blame


def make_loss_scale(
  *, initial: float = 2.0**16, growth_interval: int = 2000
) -> DynamicScale:
  """A scale of the loss, for a state to begin with.

  It is halved after a gradient that is not finite, down to 1, and doubled
  after `growth_interval` finite ones in a row.

  Args:
    initial: The scale of the first step.
    growth_interval: Steps.
  """
  return DynamicScale(
    growth_interval=growth_interval,
    minimum_scale=1.0,
    scale=jnp.float32(initial),
    fin_steps=jnp.int32(0),
  )


def scaled_gradient(
  objective: Callable[..., tuple[jax.Array, dict[str, jax.Array]]],
  loss_scale: DynamicScale | None,
  *arguments: Any,
) -> Gradient:
  """The gradient of a loss, computed from a multiple of it.

  Args:
    objective: `(params, ...) -> (loss [], terms)`.
    loss_scale: The multiple; None to do without.
    *arguments: Of the objective.

  Returns:
    Loss, terms and gradient, and what becomes of the scale. A gradient that is
    not finite although the scale is at its minimum is none of its faults.
  """
  if loss_scale is None:
    value_and_grad = jax.value_and_grad(objective, has_aux=True)
    (loss, terms), grads = value_and_grad(*arguments)
    return Gradient(loss, terms, grads, None, False)
  gradient = loss_scale.value_and_grad(objective, has_aux=True)
  changed, _, (loss, terms), grads = gradient(*arguments)
  return Gradient(loss, terms, grads, changed, changed.scale < loss_scale.scale)
