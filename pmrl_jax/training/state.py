"""What a training run changes from step to step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax.training.dynamic_scale import DynamicScale


class TrainState(NamedTuple):
  """Everything a step reads and writes; saved as one in a checkpoint.

  Random keys are folded from the seed and `step`, so none is stored.
  """

  step: jax.Array  # int32 [], steps taken, skipped ones included
  params: Any
  opt_state: optax.OptState
  skipped: jax.Array  # int32 [], steps skipped since the start of the run
  skipped_in_a_row: jax.Array  # int32 [], skipped since the last good step
  ema: Any = None  # exponential moving average of the parameters, or None
  # Of the loss, for gradients in float16; None without. See `precision`.
  loss_scale: DynamicScale | None = None

  @property
  def eval_params(self) -> Any:
    """The parameters to measure and to keep: the average, where there is one.

    Training itself always goes on from `params`.
    """
    return self.params if self.ema is None else self.ema


def create_state(
  params: Any,
  optimizer: optax.GradientTransformation,
  *,
  ema: bool = False,
  loss_scale: DynamicScale | None = None,
) -> TrainState:
  """The state before the first step.

  Large states are made where they belong, never whole on one device:
  `jax.jit(..., out_shardings=state_shardings(shapes, mesh))` around this and
  the initialisation of the parameters.

  Args:
    params: Initial parameters.
    optimizer: The optimizer that will change them.
    ema: Whether an average of the parameters is kept, which starts with them.
    loss_scale: From `make_loss_scale`, for a model that computes in float16.

  Returns:
    The state.
  """

  # An array each: a donated buffer must not be passed twice.
  def zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)

  return TrainState(
    step=zero(),
    params=params,
    opt_state=optimizer.init(params),
    skipped=zero(),
    skipped_in_a_row=zero(),
    ema=jax.tree.map(jnp.copy, params) if ema else None,
    loss_scale=jax.tree.map(jnp.copy, loss_scale),
  )
