"""One training step: gradient, update, and what happens if it is not finite."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pmrl_jax.training.sharding import batch_sharding, replicated
from pmrl_jax.training.state import TrainState

# A batch as the model and the loss see it: a tree of arrays [batch, ...].
Batch = Any
Metrics = dict[str, jax.Array]


class Objective(Protocol):
  """Loss of a batch: `(params, batch, key) -> (loss [], terms)`."""

  def __call__(
    self, params: Any, batch: Batch, key: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """Returns the scalar to differentiate and named scalars to log."""


def make_train_step(
  objective: Objective,
  optimizer: optax.GradientTransformation,
  *,
  schedule: optax.Schedule,
  seed: int,
  max_skipped: int,
  mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Compiles the training step; its state argument is donated.

  A step whose loss or gradient is not finite changes no parameter and no
  moment: it is counted and skipped. After `max_skipped` of them in a row the
  state stands still, counters included, so that whoever looks at it later
  finds it as it was when the run broke.

  Args:
    objective: The loss; its key is folded from `seed` and the step.
    optimizer: The gradient transformation.
    schedule: The learning rate by step, for the metrics.
    seed: Seed of dropout and augmentation.
    max_skipped: Skipped steps in a row after which the state stands still.
    mesh: The devices; the batch is split over them, the state is replicated.

  Returns:
    `step(state, batch) -> (state, metrics)`, where the metrics are scalars:
    `loss`, the objective's terms, `grad_norm` (before clipping),
    `learning_rate`, `skipped` and `skipped_in_a_row`.

  Raises:
    ValueError: If `max_skipped` is not positive.
  """
  if max_skipped < 1:
    raise ValueError(f"max_skipped must be at least 1, got {max_skipped}")
  root_key = jax.random.key(seed)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(root_key, state.step)
    (loss, terms), grads = jax.value_and_grad(objective, has_aux=True)(
      state.params, batch, key
    )
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)

    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    halted = state.skipped_in_a_row >= max_skipped
    moved = TrainState(
      step=state.step + 1,
      params=_choose(finite, params, state.params),
      opt_state=_choose(finite, opt_state, state.opt_state),
      skipped=state.skipped + (~finite).astype(jnp.int32),
      skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    new_state = _choose(halted, state, moved)
    metrics = {
      "loss": loss,
      **terms,
      "grad_norm": grad_norm,
      "learning_rate": jnp.asarray(
        schedule(state.step - state.skipped), jnp.float32
      ),
      "skipped": new_state.skipped,
      "skipped_in_a_row": new_state.skipped_in_a_row,
    }
    return new_state, metrics

  copies, split = replicated(mesh), batch_sharding(mesh)
  return jax.jit(
    train_step,
    donate_argnums=0,
    in_shardings=(copies, split),
    out_shardings=(copies, copies),
  )


def _choose(condition: jax.Array, first: Any, second: Any) -> Any:
  """`first` where the scalar condition holds, else `second`, leaf by leaf."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), first, second)
