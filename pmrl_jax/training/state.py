"""What a training run changes from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class TrainState(NamedTuple):
  """Everything a step reads and writes; saved as one in a checkpoint.

  Random keys are folded from the seed and `step`, so none is stored.
  """

  step: jax.Array  # int32 [], steps taken, skipped ones included
  params: Any
  opt_state: optax.OptState
  skipped: jax.Array  # int32 [], steps skipped since the start of the run
  skipped_in_a_row: jax.Array  # int32 [], skipped since the last good step


def create_state(
  params: Any, optimizer: optax.GradientTransformation
) -> TrainState:
  """The state before the first step.

  Args:
    params: Initial parameters.
    optimizer: The optimizer that will change them.

  Returns:
    The state.
  """

  # An array each: a donated buffer must not be passed twice.
  def zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)

  return TrainState(zero(), params, optimizer.init(params), zero(), zero())
