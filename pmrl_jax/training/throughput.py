"""How fast training is, and how much of the machine it uses."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from pmrl_jax.training.flops import matmul_flops

# What a row of metrics may tell; what cannot be known is not in it.
THROUGHPUT = (
  "steps_per_second",
  "samples_per_second_per_device",
  "mfu",
  "data_wait_share",
  "device_memory_gb",
)


class Peak(NamedTuple):
  """What a device can do at most, dense, in bfloat16."""

  flops: float  # per second
  source: str


_NVIDIA_A100 = "https://www.nvidia.com/en-us/data-center/a100/ (dense)"
_NVIDIA_H100 = "https://www.nvidia.com/en-us/data-center/h100/ (SXM, dense)"
_NVIDIA_H200 = "https://www.nvidia.com/en-us/data-center/h200/ (SXM, dense)"
_TPU = "https://cloud.google.com/tpu/docs/"
# {name of the device as jax has it: peak}.
PEAKS: dict[str, Peak] = {
  "NVIDIA A100-SXM4-40GB": Peak(312e12, _NVIDIA_A100),
  "NVIDIA A100-SXM4-80GB": Peak(312e12, _NVIDIA_A100),
  "NVIDIA H100 80GB HBM3": Peak(989e12, _NVIDIA_H100),
  "NVIDIA H200": Peak(989e12, _NVIDIA_H200),
  "TPU v4": Peak(275e12, f"{_TPU}v4"),
  "TPU v5 lite": Peak(197e12, f"{_TPU}v5e"),
  "TPU v5e": Peak(197e12, f"{_TPU}v5e"),
  "TPU v5": Peak(459e12, f"{_TPU}v5p"),
  "TPU v5p": Peak(459e12, f"{_TPU}v5p"),
  "TPU v6 lite": Peak(918e12, f"{_TPU}v6e"),
  "TPU v6e": Peak(918e12, f"{_TPU}v6e"),
}


def peak(device: jax.Device) -> Peak | None:
  """The peak of a device; None if it is not known."""
  return PEAKS.get(device.device_kind)


class Throughput:
  """Measures the steps between two rows of metrics.

  The first row has the compilation in it.
  """

  def __init__(self, step: int):
    """Starts the clock.

    Args:
      step: Steps taken so far.
    """
    self._mark = (step, time.perf_counter())
    self._waited = 0.0  # seconds
    self._batch_size: int | None = None  # global
    self._devices: list[jax.Device] = []  # of all processes
    self._mfu_of_one = 0.0  # at a step a second

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Counts the time within as spent on waiting for data."""
    began = time.perf_counter()
    yield
    self._waited += time.perf_counter() - began

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Leaves the time within, that of an evaluation, out of everything."""
    began = time.perf_counter()
    yield
    step, since = self._mark
    self._mark = (step, since + time.perf_counter() - began)

  def observe(self, train_step: Callable, state: Any, batch: Any) -> None:
    """Looks once at what a step works on, and at how much work it is.

    Args:
      train_step: The compiled step; if it is none, there is no MFU.
      state: What it is about to be called with.
      batch: Likewise, arrays `[batch, ...]`.
    """
    if self._batch_size is not None:
      return
    first = jax.tree.leaves(batch)[0]
    self._batch_size = first.shape[0]
    if not isinstance(first, jax.Array):
      return
    self._devices = sorted(first.sharding.device_set, key=lambda d: d.id)
    peaks = [peak(device) for device in self._devices]
    total = sum(each.flops for each in peaks if each)
    # Tracing is for nothing if there is no peak; else the call finds it done.
    if None not in peaks and hasattr(train_step, "trace"):
      jaxpr = train_step.trace(state, batch).jaxpr
      self._mfu_of_one = matmul_flops(jaxpr) / total

  def read(self, step: int) -> dict[str, float]:
    """What was measured since the last call, pauses left out.

    Args:
      step: Steps taken so far.

    Returns:
      Of `THROUGHPUT`, what is known: `steps_per_second`;
      `samples_per_second_per_device`; `mfu`, the operations of the step's
      matrix products and convolutions, those that rematerialisation repeats
      included, as a share of what the devices can do in bfloat16;
      `data_wait_share`, the share of the time in which the loop waited for
      the iterator; and `device_memory_gb`, the most that one of this
      process's devices has held so far, in 1e9 bytes.
    """
    then, since = self._mark
    now = time.perf_counter()
    seconds = max(now - since, 1e-9)
    rate = (step - then) / seconds
    row = {"steps_per_second": rate}
    if self._batch_size is not None and self._devices:
      samples = self._batch_size * rate
      row["samples_per_second_per_device"] = samples / len(self._devices)
    if self._mfu_of_one:
      row["mfu"] = self._mfu_of_one * rate
    row["data_wait_share"] = min(self._waited / seconds, 1.0)
    if (memory := _peak_memory(self._devices)) is not None:
      row["device_memory_gb"] = memory / 1e9
    self._mark, self._waited = (step, now), 0.0
    return row


def _peak_memory(devices: list[jax.Device]) -> int | None:
  """The most bytes that one of this process's devices held, if it tells."""
  ours = [d for d in devices if d.process_index == jax.process_index()]
  stats = [device.memory_stats() or {} for device in ours]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  return max(peaks, default=None)
