"""One training step: gradient, update, and what happens if it is not finite."""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from pmrl_jax.training.precision import scaled_gradient
from pmrl_jax.training.sharding import batch_sharding, gather_for, replicated
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
  shardings: TrainState | None = None,
  ema_decay: float | None = None,
  compiler_options: dict[str, Any] | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
  """Compiles the training step; its state argument is donated.

  A step whose loss or gradient is not finite changes no parameter and no
  moment: it is counted and skipped. After `max_skipped` of them in a row the
  state stands still, counters included, so that whoever looks at it later
  finds it as it was when the run broke. With a `loss_scale` in the state a
  gradient that is not finite halves the scale, and the step counts among the
  skipped ones in a row only once the scale cannot be halved any more.

  Args:
    objective: The loss; its key is folded from `seed` and the step.
    optimizer: The gradient transformation.
    schedule: The learning rate by step, for the metrics.
    seed: Seed of dropout and augmentation.
    max_skipped: Skipped steps in a row after which the state stands still.
    mesh: The devices; the batch is split over them.
    shardings: How the state lies on them, before and after the step; see
      `state_shardings`. None: a copy on each.
    ema_decay: Decay of the average of the parameters, `state.ema`, over steps
      that are not skipped: `ema = decay * ema + (1 - decay) * params`. None:
      there is none.
    compiler_options: Handed to XLA; see `check_compiler_options`.

  Returns:
    `step(state, batch) -> (state, metrics)`, where the metrics are scalars:
    `loss`, the objective's terms, `grad_norm` (before clipping),
    `learning_rate`, `skipped` and `skipped_in_a_row`, and the `loss_scale`
    that the step used, if there is one.

  Raises:
    ValueError: If `max_skipped` is not positive or `ema_decay` not between 0
      and 1; when called, if there is a decay and no average or the reverse.
  """
  if max_skipped < 1:
    raise ValueError(f"max_skipped must be at least 1, got {max_skipped}")
  if ema_decay is not None and not 0 < ema_decay < 1:
    raise ValueError(
      f"ema_decay must be between 0 and 1, such as 0.999, or None for no "
      f"average, got {ema_decay}"
    )
  root_key = jax.random.key(seed)
  gathering = gather_for(objective, mesh)

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
    key = jax.random.fold_in(root_key, state.step)
    loss, terms, grads, loss_scale, rescaled = scaled_gradient(
      gathering, state.loss_scale, state.params, batch, key
    )
    if shardings is not None:
      # Each device sums the part that it keeps, instead of all of it.
      grads = jax.lax.with_sharding_constraint(grads, shardings.params)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    halted = state.skipped_in_a_row >= max_skipped

    def move(grads: Any) -> tuple[Any, Any, Any]:
      updates, opt_state = optimizer.update(
        grads, state.opt_state, state.params
      )
      params = optax.apply_updates(state.params, updates)
      return params, opt_state, _averaged(state.ema, params, ema_decay)

    def stand_still(_: Any) -> tuple[Any, Any, Any]:
      return state.params, state.opt_state, state.ema

    # A choice between the results would need the old state beside the new one,
    # and read the moments once for each of the two.
    params, opt_state, ema = jax.lax.cond(
      finite & ~halted, move, stand_still, grads
    )
    step, skipped, skipped_in_a_row, loss_scale = _choose(
      halted,
      (state.step, state.skipped, state.skipped_in_a_row, state.loss_scale),
      (
        state.step + 1,
        state.skipped + (~finite).astype(jnp.int32),
        jnp.where(
          finite, 0, state.skipped_in_a_row + jnp.logical_not(rescaled)
        ),
        loss_scale,
      ),
    )
    new_state = TrainState(
      step=step,
      params=params,
      opt_state=opt_state,
      skipped=skipped,
      skipped_in_a_row=skipped_in_a_row,
      ema=ema,
      loss_scale=loss_scale,
    )
    metrics = {
      "loss": loss,
      **terms,
      "grad_norm": grad_norm,
      "learning_rate": jnp.asarray(
        schedule(state.step - state.skipped), jnp.float32
      ),
      "skipped": skipped,
      "skipped_in_a_row": skipped_in_a_row,
    }
    if state.loss_scale is not None:
      metrics["loss_scale"] = state.loss_scale.scale
    return new_state, metrics

  copies = replicated(mesh)
  placed = copies if shardings is None else shardings
  return jax.jit(
    train_step,
    donate_argnums=0,
    in_shardings=(placed, batch_sharding(mesh)),
    out_shardings=(placed, copies),
    compiler_options=compiler_options,
  )


def _averaged(ema: Any, params: Any, decay: float | None) -> Any:
  """The average after a step, or None."""
  if (ema is None) != (decay is None):
    raise ValueError(
      f"expected an average of the parameters in the state and its decay, or "
      f"neither, got {'none' if ema is None else 'one'} and ema_decay={decay}; "
      "create_state(..., ema=True) starts one"
    )
  if decay is None:
    return None
  return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, ema, params)


def _choose(condition: jax.Array, first: Any, second: Any) -> Any:
  """`first` where the scalar condition holds, else `second`, leaf by leaf."""
  return jax.tree.map(lambda a, b: jnp.where(condition, a, b), first, second)
