"""Checkpoints by orbax: asynchronous, with retention, verified on restore."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from pmrl_jax.training.state import TrainState

_log = logging.getLogger(__name__)
_policies = ocp.checkpoint_managers


class CheckpointError(RuntimeError):
  """No checkpoint of a run can be used."""


class Restored(NamedTuple):
  """What a checkpoint gave back."""

  step: int
  state: TrainState
  skipped: tuple[str, ...]  # newer checkpoints that are damaged, and why


def check_retention(*, keep: int, best_metric: str, best_mode: str) -> None:
  """Checks which checkpoints are to be kept; see `Checkpointer`.

  Raises:
    ValueError: If `keep` is not positive, there is no metric or the mode is
      unknown.
  """
  if keep < 1:
    raise ValueError(f"keep must be at least 1, got {keep}")
  if not best_metric:
    raise ValueError("best_metric must name a metric, got an empty string")
  if best_mode not in ("max", "min"):
    raise ValueError(f"best_mode must be 'max' or 'min', got {best_mode!r}")


class Checkpointer:
  """The checkpoints of one run: `<folder>/<step>/`.

  A checkpoint holds the train state, the position of the data iterator and a
  fingerprint of the state, so that damage that the file format does not
  notice is found on restore.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    keep: int = 2,
    best_metric: str = "mean_R@1",
    best_mode: str = "max",
    read_only: bool = False,
  ):
    """Opens the folder.

    Args:
      folder: Where the checkpoints are; made if absent.
      keep: How many of the newest to keep.
      best_metric: Name of the metric whose best checkpoint is kept as well.
      best_mode: `max` or `min`: which value of the metric is best.
      read_only: Whether to only read; the folder must exist then.

    Raises:
      ValueError: See `check_retention`.
    """
    check_retention(keep=keep, best_metric=best_metric, best_mode=best_mode)
    self._folder = Path(folder).absolute()
    self._best_metric = best_metric

    def best(metrics: Mapping[str, float]) -> float:
      return metrics[best_metric]

    retention = _policies.AnyPreservationPolicy(
      [
        _policies.LatestN(keep),
        _policies.BestN(
          get_metric_fn=best,
          reverse=best_mode == "min",
          n=1,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )
    self._manager = ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=retention,
        best_fn=best,  # without it no metrics are written
        best_mode=best_mode,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
      ),
      item_handlers={
        "state": ocp.StandardCheckpointHandler(),
        "data": grain.checkpoint.CheckpointHandler(),
        "fingerprint": ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    """The steps of which there is a checkpoint, ascending."""
    return sorted(self._manager.all_steps())

  def best_step(self) -> int | None:
    """The step with the best metric, or None."""
    return self._manager.best_step()

  def save(
    self,
    step: int,
    state: TrainState,
    iterator: Any,
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts to save; training may go on at once.

    Args:
      step: Steps taken.
      state: The state after them.
      iterator: The data iterator; its position is saved.
      metrics: Scalars of an evaluation at this step, if there was one.
    """
    if step in self._manager.all_steps():
      return  # saved already: an interruption right after a scheduled save
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=grain.checkpoint.CheckpointSave(iterator),
        fingerprint=ocp.args.JsonSave(_fingerprint(state)),
      ),
      metrics=dict(metrics) if metrics else None,
      force=True,
    )

  def restore(
    self, abstract_state: TrainState, iterator: Any
  ) -> Restored | None:
    """Restores the newest checkpoint that is whole.

    Args:
      abstract_state: Shapes, dtypes and shardings of the state, as arrays or
        `jax.ShapeDtypeStruct`.
      iterator: The data iterator; its position is set.

    Returns:
      The state, its step and what had to be passed over; None if there is no
      checkpoint. Damaged checkpoints are moved to `<folder>-damaged/` once an
      older one was restored.

    Raises:
      CheckpointError: If there are checkpoints, and none of them is whole.
    """
    failures: dict[int, str] = {}
    for step in reversed(self.steps()):
      try:
        state = self.restore_step(step, abstract_state, iterator)
      except Exception as error:  # orbax and its readers raise many types
        failures[step] = f"checkpoint {step}: {_first_line(error)}"
        _log.warning("damaged %s; trying the one before", failures[step])
        continue
      for damaged in failures:
        self._set_aside(damaged)
      return Restored(step, state, tuple(failures.values()))
    if failures:
      raise CheckpointError(
        f"none of the checkpoints in {self._folder} can be restored:\n  "
        + "\n  ".join(failures.values())
        + "\nThey were left as they are. Restore them from a copy, or start "
        "again in another workdir."
      )
    return None

  def restore_step(
    self, step: int, abstract_state: TrainState, iterator: Any = None
  ) -> TrainState:
    """Restores one checkpoint and verifies it.

    Args:
      step: Which.
      abstract_state: See `restore`.
      iterator: The data iterator whose position to set, if any.

    Returns:
      The state.

    Raises:
      CheckpointError: If the content is not what was saved. What orbax raises
        for unreadable files is passed on.
    """
    items = {
      "state": ocp.args.StandardRestore(
        jax.tree.map(ocp.utils.to_shape_dtype_struct, abstract_state)
      ),
      "fingerprint": ocp.args.JsonRestore(),
    }
    if iterator is not None:
      items["data"] = grain.checkpoint.CheckpointRestore(iterator)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    if restored["fingerprint"] != _fingerprint(restored["state"]):
      raise CheckpointError(
        "the values differ from those that were saved (fingerprint mismatch)"
      )
    return restored["state"]

  def wait(self) -> None:
    """Waits until what is being saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and frees the threads."""
    self._manager.close()

  def _set_aside(self, step: int) -> None:
    target = self._folder.with_name(self._folder.name + "-damaged")
    target.mkdir(exist_ok=True)
    number = len(list(target.glob(f"{step}*")))
    (self._folder / str(step)).rename(target / f"{step}-{number}")
    self._manager.reload()


@jax.jit
def _checksums(tree: Any) -> jax.Array:
  """uint32 `[leaf]`: a position-dependent sum of each leaf's bits.

  Integer sums do not depend on the order, hence not on the sharding.
  """

  def checksum(x: jax.Array) -> jax.Array:
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    if x.dtype == jnp.bool_:
      bits = x.astype(unsigned)
    else:
      bits = jax.lax.bitcast_convert_type(x, unsigned)
    position = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
    weights = 2 * position * jnp.uint32(2654435761) + 1  # odd: no bit is lost
    return jnp.sum(bits.astype(jnp.uint32) * weights, dtype=jnp.uint32)

  return jnp.stack([checksum(x) for x in jax.tree.leaves(tree)])


def _fingerprint(state: TrainState) -> dict[str, int]:
  """Checksums of the leaves by their path in the tree."""
  paths = jax.tree_util.tree_flatten_with_path(state)[0]
  sums = np.asarray(_checksums(state)).tolist()
  return {
    jax.tree_util.keystr(path): value for (path, _), value in zip(paths, sums)
  }


def _first_line(error: Exception) -> str:
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
