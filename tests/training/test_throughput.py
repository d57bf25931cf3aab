"""What rows of metrics tell of speed, and what they leave out."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from pmrl_jax import training
from pmrl_jax.training import throughput


def _flops(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
  return throughput.matmul_flops(jax.jit(function).trace(*arguments).jaxpr)


def _matmul(x, w):
  return x @ w


def test_a_product_counts_its_multiplications_and_additions():
  assert _flops(_matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
  assert _flops(jax.vmap(_matmul), (4, 3, 5), (4, 5, 7)) == 4 * 2 * 3 * 5 * 7
  assert _flops(jnp.add, (3, 5), (3, 5)) == 0


def test_a_gradient_counts_thrice():
  def loss(w, v, x):
    return jnp.sum(jnp.tanh(jnp.tanh(x @ w) @ v))

  forward = 2 * 2 * 3 * 5 * 5
  # The input has no gradient.
  expected = 3 * forward - 2 * 3 * 5 * 5
  gradient = jax.grad(loss, argnums=(0, 1))
  assert _flops(gradient, (5, 5), (5, 5), (3, 5)) == expected


def test_a_stack_of_layers_counts_every_layer():
  def stack(x, layers):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, layers)[0]

  assert _flops(stack, (3, 5), (11, 5, 5)) == 11 * 2 * 3 * 5 * 5


def test_a_convolution_counts_its_taps():
  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
    )

  # 4 outputs of 6 channels, each of 2 x 2 pixels and half the channels.
  got = _flops(convolve, (1, 4, 4, 8), (2, 2, 4, 6))
  assert got == 2 * 4 * 6 * (2 * 2 * 4)


def test_parts_of_a_mesh_count_on_all_devices():
  mesh = training.make_mesh()
  split = PartitionSpec(mesh.axis_names)
  mapped = jax.shard_map(
    _matmul, mesh=mesh, in_specs=(split, PartitionSpec()), out_specs=split
  )
  assert _flops(mapped, (16, 5), (5, 7)) == 2 * 16 * 5 * 7


def test_of_branches_the_longer_one_counts():
  def either(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w, lambda: x @ w @ w)

  assert _flops(either, (3, 5), (5, 5)) == 2 * 2 * 3 * 5 * 5


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
