"""AdamW with warm-up, cosine decay and clipping by the global norm."""

from typing import Any

import jax
import optax


def _is_matrix(params: Any) -> Any:
  """Marks what weight decay shrinks: matrices, no biases and no scales."""
  return jax.tree.map(lambda p: p.ndim > 1, params)


def make_optimizer(
  *,
  learning_rate: float,
  steps: int,
  warmup_steps: int = 0,
  weight_decay: float = 0.0,
  clip_norm: float = 1.0,
  b1: float = 0.9,
  b2: float = 0.999,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimizer and its learning-rate schedule.

  Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization,
  arXiv 1711.05101.

  Args:
    learning_rate: Peak learning rate, reached after the warm-up.
    steps: Steps of the whole run; the rate ends at 0 there.
    warmup_steps: Steps of the linear warm-up from 0.
    weight_decay: Decoupled weight decay of the matrices.
    clip_norm: Largest global norm of the gradient.
    b1: Decay of the first moment.
    b2: Decay of the second moment.

  Returns:
    The gradient transformation and the schedule (step -> learning rate).

  Raises:
    ValueError: If a number is out of range.
  """
  positive = {
    "learning_rate": learning_rate,
    "steps": steps,
    "clip_norm": clip_norm,
  }
  for name, value in positive.items():
    if value <= 0:
      raise ValueError(f"{name} must be positive, got {value}")
  if weight_decay < 0:
    raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
  if not 0 <= warmup_steps < steps:
    raise ValueError(
      f"warmup_steps must be at least 0 and less than the {steps} steps of the "
      f"run, got {warmup_steps}"
    )
  schedule = optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup_steps else learning_rate,
    peak_value=learning_rate,
    warmup_steps=warmup_steps,
    decay_steps=steps,
  )
  optimizer = optax.chain(
    optax.clip_by_global_norm(clip_norm),
    optax.adamw(
      schedule, b1=b1, b2=b2, weight_decay=weight_decay, mask=_is_matrix
    ),
  )
  return optimizer, schedule
