"""What rows of metrics tell of speed, and what they leave out."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import training
from pmrl_jax.training import throughput


@pytest.fixture
def clock(monkeypatch):
  now = SimpleNamespace(seconds=100.0)
  monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
  return now


def _observed(start=0):
  """A meter that saw a step of 1000 operations on 8 devices."""
  meter = throughput.Throughput(start)
  batch = training.shard_batch(np.ones((8, 25), np.float32), _mesh())
  step = jax.jit(lambda state, batch: (state, jnp.sum(batch @ state)))
  meter.observe(step, jnp.ones((25, 5)), batch)
  return meter


def _mesh():
  return training.make_mesh()


def test_rates_are_those_since_the_last_row(clock):
  meter = _observed(start=10)
  clock.seconds += 2
  assert meter.read(14)["steps_per_second"] == 2
  clock.seconds += 4
  row = meter.read(16)
  assert row["steps_per_second"] == 0.5
  assert row["samples_per_second_per_device"] == 0.5 * 8 / 8


def test_evaluations_are_left_out_and_waiting_is_a_share(clock):
  meter = _observed()
  with meter.waiting():
    clock.seconds += 1
  with meter.paused():
    clock.seconds += 100
  clock.seconds += 3
  row = meter.read(8)
  assert row["steps_per_second"] == 2 and row["data_wait_share"] == 0.25
  clock.seconds += 1
  assert meter.read(9)["data_wait_share"] == 0


def test_mfu_is_told_where_the_peak_is_known_and_only_there(clock, monkeypatch):
  meter = _observed()
  clock.seconds += 1
  assert "mfu" not in meter.read(1)
  known = throughput.Peak(1000.0, "a data sheet")
  monkeypatch.setitem(throughput.PEAKS, "cpu", known)
  meter = _observed()
  clock.seconds += 1
  # 2 * 8 * 25 * 5 operations, twice a second, of 8 devices.
  assert meter.read(2)["mfu"] == pytest.approx(2 * 2000 / 8000)


def test_memory_is_told_where_devices_tell_it_and_only_there(
  clock, monkeypatch
):
  meter = _observed()
  clock.seconds += 1
  assert "device_memory_gb" not in meter.read(1)
  told = [
    SimpleNamespace(process_index=0, memory_stats=lambda stats=stats: stats)
    for stats in ({"peak_bytes_in_use": 3_000_000_000}, None, {})
  ]
  other = SimpleNamespace(
    process_index=1, memory_stats=lambda: {"peak_bytes_in_use": 10**12}
  )
  monkeypatch.setattr(meter, "_devices", [*told, other])
  assert meter.read(2)["device_memory_gb"] == 3


def test_measuring_does_not_trace_the_step_once_more(monkeypatch):
  known = throughput.Peak(1000.0, "a data sheet")
  monkeypatch.setitem(throughput.PEAKS, "cpu", known)
  traced = []

  @jax.jit
  def step(state, batch):
    traced.append(batch.shape)
    return state, jnp.sum(batch @ state)

  state = jnp.ones((25, 5))
  batch = training.shard_batch(np.ones((8, 25), np.float32), _mesh())
  meter = throughput.Throughput(0)
  for _ in range(2):
    meter.observe(step, state, batch)
    step(state, batch)
  assert len(traced) == 1


def test_names_are_those_that_rows_have(clock, monkeypatch):
  monkeypatch.setitem(
    throughput.PEAKS, "cpu", throughput.Peak(1.0, "a data sheet")
  )
  meter = _observed()
  clock.seconds += 1
  row = meter.read(1)
  assert set(row) == set(training.THROUGHPUT) - {"device_memory_gb"}
