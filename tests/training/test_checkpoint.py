"""Checkpoints: exact restore, retention, damage, other device counts."""

import json
from typing import Any, NamedTuple
from unittest import mock

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pmrl_jax import training


def _state(value, devices=1):
  params = {
    "w": jnp.full((8, 4), value, jnp.float32) + jnp.arange(4)[None],
    "half": jnp.full((8,), value, jnp.bfloat16),
  }
  state = training.create_state(params, optax.adamw(0.1))
  state = state._replace(step=jnp.asarray(int(value), jnp.int32))
  mesh = training.make_mesh(devices=jax.devices()[:devices])
  return training.replicate(state, mesh)


def _iterator(position=0):
  iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
  for _ in range(position):
    next(iterator)
  return iterator


def _save(folder, steps, **options):
  checkpointer = training.Checkpointer(folder, **options)
  for step in steps:
    checkpointer.save(step, _state(step), _iterator(step))
  checkpointer.close()


def _restore(folder, devices=1):
  iterator = _iterator()
  checkpointer = training.Checkpointer(folder)
  restored = checkpointer.restore(_state(0, devices), iterator)
  checkpointer.close()
  return restored, iterator


def test_state_and_data_position_come_back_exactly(tmp_path):
  _save(tmp_path / "c", [3, 5])
  restored, iterator = _restore(tmp_path / "c")
  assert restored.step == 5 and restored.skipped == ()
  chex.assert_trees_all_equal(restored.state, _state(5))
  assert next(iterator) == 5


def test_data_position_of_older_checkpoints_comes_back(tmp_path):
  # As grain writes it: by each of the processes that there were.
  _save(tmp_path / "c", [5])
  folder = tmp_path / "c" / "5" / "data"
  (folder / "position.json").unlink()
  older = _iterator(4)
  for process in range(2):
    path = folder / f"process_{process}-of-2.json"
    path.write_text(json.dumps(older.get_state(), indent=4))
  restored, iterator = _restore(tmp_path / "c")
  assert restored.step == 5 and restored.skipped == ()
  assert next(iterator) == 4


def test_no_checkpoint_restores_nothing(tmp_path):
  restored, _ = _restore(tmp_path / "c")
  assert restored is None


def test_restores_onto_another_number_of_devices(tmp_path):
  _save(tmp_path / "c", [2])
  restored, _ = _restore(tmp_path / "c", devices=8)
  chex.assert_trees_all_equal(restored.state, _state(2))
  assert len(restored.state.params["w"].sharding.device_set) == 8


def test_newest_and_best_are_kept(tmp_path):
  checkpointer = training.Checkpointer(
    tmp_path / "c", keep=2, best_metric="accuracy"
  )
  for step, accuracy in enumerate([0.1, 0.9, 0.3, None, 0.5, None], 1):
    metrics = None if accuracy is None else {"accuracy": accuracy}
    checkpointer.save(step, _state(step), _iterator(step), metrics)
    checkpointer.wait()
  assert checkpointer.steps() == [2, 5, 6]
  assert checkpointer.best_step() == 2
  checkpointer.close()
  reopened = training.Checkpointer(
    tmp_path / "c", keep=2, best_metric="accuracy"
  )
  reopened.save(7, _state(7), _iterator(7))
  reopened.wait()
  assert reopened.steps() == [2, 6, 7]
  reopened.close()


def test_lowest_metric_is_best_in_min_mode(tmp_path):
  checkpointer = training.Checkpointer(
    tmp_path / "c", keep=1, best_metric="loss", best_mode="min"
  )
  for step, loss in enumerate([0.5, 0.2, 0.7], 1):
    checkpointer.save(step, _state(step), _iterator(), {"loss": loss})
    checkpointer.wait()
  assert checkpointer.steps() == [2, 3]
  checkpointer.close()


def _largest_file(folder):
  files = [p for p in (folder / "state").rglob("*") if p.is_file()]
  return max(files, key=lambda p: p.stat().st_size)


def _truncate(folder):
  path = _largest_file(folder)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _remove_data_position(folder):
  for path in (folder / "data").iterdir():
    path.unlink()


def _empty_all(folder):
  for path in folder.rglob("*"):
    if path.is_file():
      path.write_bytes(b"")


@pytest.mark.parametrize(
  "damage", [_truncate, _remove_data_position, _empty_all]
)
def test_damaged_newest_falls_back_to_the_one_before(tmp_path, damage, caplog):
  _save(tmp_path / "c", [3, 5])
  damage(tmp_path / "c" / "5")
  restored, iterator = _restore(tmp_path / "c")
  assert restored.step == 3
  chex.assert_trees_all_equal(restored.state, _state(3))
  assert next(iterator) == 3
  assert len(restored.skipped) == 1 and "checkpoint 5" in restored.skipped[0]
  assert "damaged checkpoint 5" in caplog.text
  # Set aside, not lost, and no longer in the way of the next save of step 5.
  assert (tmp_path / "c-damaged" / "5-0").is_dir()
  _save(tmp_path / "c", [5])
  assert _restore(tmp_path / "c")[0].step == 5


def test_silent_change_of_a_value_is_found(tmp_path):
  """A state saved under the fingerprint of another must not be restored."""
  _save(tmp_path / "c", [3, 5])
  _save(tmp_path / "other", [4])
  state = tmp_path / "c" / "5" / "state"
  for path in state.rglob("*"):
    if path.is_file():
      path.unlink()
  (tmp_path / "other" / "4" / "state").rename(tmp_path / "moved")
  for path in sorted((tmp_path / "moved").rglob("*")):
    target = state / path.relative_to(tmp_path / "moved")
    if path.is_dir():
      target.mkdir(exist_ok=True)
    else:
      path.rename(target)
  restored, _ = _restore(tmp_path / "c")
  assert restored.step == 3
  assert "fingerprint" in restored.skipped[0]


def test_all_damaged_is_an_error_that_leaves_the_files(tmp_path):
  _save(tmp_path / "c", [3, 5])
  _truncate(tmp_path / "c" / "3")
  _truncate(tmp_path / "c" / "5")
  files = sorted(tmp_path.rglob("*"))
  with pytest.raises(training.CheckpointError, match="none of the checkpoints"):
    _restore(tmp_path / "c")
  assert sorted(tmp_path.rglob("*")) == files


def test_saving_a_step_twice_keeps_the_first(tmp_path):
  _save(tmp_path / "c", [3])
  _save(tmp_path / "c", [3])
  restored, _ = _restore(tmp_path / "c")
  np.testing.assert_array_equal(restored.state.step, 3)


def test_options_out_of_range_are_explained(tmp_path):
  with pytest.raises(ValueError, match="keep must be at least 1"):
    training.Checkpointer(tmp_path, keep=0)
  with pytest.raises(ValueError, match="'max' or 'min', got 'most'"):
    training.Checkpointer(tmp_path, best_mode="most")


def _on_mesh(state, axes, devices=8):
  mesh = training.make_mesh({"data": -1, **axes}, jax.devices()[:devices])
  return jax.device_put(state, training.state_shardings(state, mesh))


def test_restores_onto_another_mesh(tmp_path, monkeypatch):
  monkeypatch.setattr(training.sharding, "MIN_SPLIT_SIZE", 8)
  saved = training.create_state(
    {"w": jax.random.normal(jax.random.key(0), (16, 8))},
    optax.adamw(0.1),
    ema=True,
  )
  checkpointer = training.Checkpointer(tmp_path / "c")
  checkpointer.save(1, _on_mesh(saved, {"data": 8}), _iterator())
  checkpointer.save(2, _on_mesh(saved, {"fsdp": 8}), _iterator())
  checkpointer.wait()
  for step in (1, 2):
    for axes, devices, part in (
      ({"fsdp": 2}, 8, (8, 8)),
      ({"fsdp": 8}, 8, (2, 8)),
      ({}, 1, (16, 8)),
    ):
      wanted = _on_mesh(jax.tree.map(jnp.zeros_like, saved), axes, devices)
      state = checkpointer.restore_step(step, wanted)
      chex.assert_trees_all_equal(state, saved)
      for tree in (state.params, state.ema, state.opt_state[0].nu):
        assert tree["w"].sharding == wanted.params["w"].sharding
        assert tree["w"].addressable_shards[0].data.shape == part
  checkpointer.close()


def test_checkpoints_from_before_there_were_averages_restore(tmp_path):
  """An older version saved the same fields, but `ema`."""

  class Old(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    skipped: Any
    skipped_in_a_row: Any

  old = Old(*_state(4)[:5])
  old_form = mock.patch.object(
    training.checkpoint, "_saved_form", lambda state: state
  )
  checkpointer = training.Checkpointer(tmp_path / "c")
  with old_form:
    checkpointer.save(4, old, _iterator())
    checkpointer.wait()
  checkpointer.close()
  restored, _ = _restore(tmp_path / "c")
  assert restored.step == 4 and restored.state.ema is None
  chex.assert_trees_all_equal(restored.state, _state(4))


def test_checkpoint_of_another_model_names_what_differs(tmp_path):
  _save(tmp_path / "c", [3, 5])
  params = {
    "w": jnp.zeros((8, 6)),
    "half": jnp.zeros((8,), jnp.float32),
    "more": jnp.zeros(2),
  }
  other = training.create_state(params, optax.sgd(0.1))
  checkpointer = training.Checkpointer(tmp_path / "c")
  with pytest.raises(training.CheckpointError) as info:
    checkpointer.restore(other, _iterator())
  checkpointer.close()
  message = str(info.value)
  for part in (
    "checkpoint 5 in",
    "of another model or optimizer",
    "params/w: float32[8, 4] there, float32[8, 6] in this run",
    "params/half: bfloat16[8] there, float32[8] in this run",
    "params/more: absent there, float32[2] in this run",
    "opt_state/0/mu/w: float32[8, 4] there, absent in this run",
  ):
    assert part in message
  # It is not damaged.
  assert not (tmp_path / "c-damaged").exists()
  assert (tmp_path / "c" / "5").is_dir()
