"""Checkpoints by orbax: asynchronous, with retention, verified on restore."""

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from pmrl_jax.training.fingerprint import fingerprint
from pmrl_jax.training.state import TrainState

_log = logging.getLogger(__name__)
_policies = ocp.checkpoint_managers
_LISTED = 10  # differences that a message lists
_POSITION = "position.json"


class CheckpointError(RuntimeError):
  """No checkpoint of a run can be used."""


class _OtherState(CheckpointError):
  """A checkpoint is whole, and of another model or optimizer."""


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
        "data": ocp.JsonCheckpointHandler(filename=_POSITION),
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
        state=ocp.args.StandardSave(_saved_form(state)),
        data=ocp.args.JsonSave(iterator.get_state()),
        fingerprint=ocp.args.JsonSave(fingerprint(state)),
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
        `jax.ShapeDtypeStruct`. It may lie on other devices, and be split over
        them in another way, than when it was saved.
      iterator: The data iterator; its position is set.

    Returns:
      The state, its step and what had to be passed over; None if there is no
      checkpoint. Damaged checkpoints are moved to `<folder>-damaged/` once an
      older one was restored.

    Raises:
      CheckpointError: If there are checkpoints, and none of them is whole, or
        the newest is of another model.
    """
    failures: dict[int, str] = {}
    for step in reversed(self.steps()):
      try:
        state = self.restore_step(step, abstract_state, iterator)
      except _OtherState:
        raise  # so are those before
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
      CheckpointError: If the content is not what was saved, or is a state of
        another model. What orbax raises for unreadable files is passed on.
    """
    self.wait()  # it may be one that is being saved
    abstract_state = jax.tree.map(
      ocp.utils.to_shape_dtype_struct, abstract_state
    )
    self._check_fits(step, abstract_state)
    items = {
      "state": ocp.args.StandardRestore(_saved_form(abstract_state)),
      "fingerprint": ocp.args.JsonRestore(),
    }
    position = None if iterator is None else self._position(step)
    restored = self._manager.restore(step, args=ocp.args.Composite(**items))
    state = abstract_state._replace(**restored["state"])
    if restored["fingerprint"] != fingerprint(state):
      raise CheckpointError(
        "the values differ from those that were saved (fingerprint mismatch)"
      )
    if iterator is not None:
      iterator.set_state(position)
    return state

  def _position(self, step: int) -> Any:
    """The position of the data, which is the same for all processes."""
    folder = self._folder / str(step) / "data"
    path = folder / _POSITION
    if not path.exists():
      # Older ones have a copy for each of the processes that there were.
      path = folder / next(iter(sorted(folder.glob("process_0-of-*"))), path)
    return json.loads(path.read_text())

  def wait(self) -> None:
    """Waits until what is being saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and frees the threads."""
    self._manager.close()

  def _check_fits(self, step: int, abstract_state: TrainState) -> None:
    """Checks names, shapes and dtypes before anything is read."""
    metadata = self._manager.item_metadata(step)["state"]
    if metadata is None:
      return  # unreadable, which restoring explains
    theirs = _specs(metadata.tree)
    ours = _specs(_saved_form(abstract_state))
    differing = [
      f"{name}: {theirs.get(name, 'absent')} there, "
      f"{ours.get(name, 'absent')} in this run"
      for name in sorted(ours | theirs)
      if ours.get(name) != theirs.get(name)
    ]
    if differing:
      more = len(differing) - _LISTED
      raise _OtherState(
        f"checkpoint {step} in {self._folder} is of another model or "
        f"optimizer; {len(differing)} of its arrays and of this run's differ:"
        + "".join(f"\n  {line}" for line in differing[:_LISTED])
        + (f"\n  and {more} more" if more > 0 else "")
        + "\nGo back to the config that it was trained with, or start in "
        "another workdir; config.init_from takes parameters alone"
      )

  def _set_aside(self, step: int) -> None:
    if jax.process_index() == 0:
      target = self._folder.with_name(self._folder.name + "-damaged")
      target.mkdir(exist_ok=True)
      number = len(list(target.glob(f"{step}*")))
      (self._folder / str(step)).rename(target / f"{step}-{number}")
    multihost_utils.sync_global_devices(f"set aside {step}")
    self._manager.reload()


def _saved_form(state: TrainState) -> dict[str, Any]:
  """The fields that there are: without an average no checkpoint has the key.

  For orbax a None is a leaf, which is missing where older versions saved.
  """
  return {k: x for k, x in state._asdict().items() if x is not None}


def _specs(tree: Any) -> dict[str, str]:
  """Shape and dtype of every array by its path, as text."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      f"{jnp.dtype(x.dtype).name}{list(x.shape)}"
    )
    for path, x in jax.tree.leaves_with_path(tree)
  }


def _first_line(error: Exception) -> str:
  text = str(error).strip().splitlines()
  return f"{type(error).__name__}: {text[0][:200] if text else 'no message'}"
