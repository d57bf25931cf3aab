"""How much of the work of the input pipeline happens behind the device's.

A loop as in training: take a batch, run a step, wait for it. The batches come
from `training_iterator` on rows of media files. The step is one of two:

- `timer`: an emulated device that takes a given time and no CPU, as a GPU or a
  TPU takes: the loop sleeps
- `cpu`: a real jitted computation as long as that on an idle machine, which
  takes the very cores that decode

Were nothing prepared ahead, a turn would take loading + step; were everything
hidden, the step alone. So of the loading, hidden is
`1 - (turn - step) / loading`, and the device is busy for `step / turn`.
"""

import statistics
import time
import wave
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa

from experiments.benchmarks import footage
from pmrl_jax.data import RowSource, training_iterator
from pmrl_jax.data.inputs import VideoInput, WaveformInput
from pmrl_jax.data.manifest import read_manifest, write_table

_SAMPLE_RATE = 16_000  # Hz
_RESOLUTION = 224  # pixels
_WIDTH = 256  # of the matrices that the real step multiplies
_SPARE = 1.5  # how much longer a step takes than the pipeline does
_CALLS = 3  # of the step alone

PIPELINES = ("threads", "processes")
DEVICES = ("timer", "cpu")


class Setting(NamedTuple):
  """How batches are made."""

  batch_size: int
  num_frames: int
  num_rows: int
  num_turns: int
  prefetch: int
  num_workers: int


class Overlap(NamedTuple):
  """One loop; times in seconds per batch or turn."""

  pipeline: str  # "threads" or "processes"
  device: str  # "timer" or "cpu"
  loading: float  # one batch, nothing ahead and nothing beside it
  pace: float  # one batch from the pipeline if nothing else is done
  step: float  # alone
  turn: float  # of the loop: taking a batch and a step

  def hidden(self) -> float:
    """The share of the loading that does not lengthen a turn."""
    return 1 - (self.turn - self.step) / self.loading

  def busy(self) -> float:
    """The share of the time that the device computes."""
    return self.step / self.turn

  def suffices(self) -> bool:
    """Whether the pipeline makes batches as fast as the steps take them."""
    return self.pace <= self.step

  def is_sound(self) -> bool:
    """Whether the times fit together: no turn is shorter than its step.

    They do not if other programs slowed the step when it was timed alone.
    """
    return self.turn >= 0.98 * self.step


def rows(folder: Path, size: footage.Footage, setting: Setting) -> RowSource:
  """Writes a table of videos with sounds, and reads it.

  Args:
    folder: for the files; what was drawn before is taken again.
    size: of the drawn video.
    setting: how many rows there are, and frames of a video.

  Returns:
    The source; its rows share the files, and each is decoded by itself.
  """
  video = footage.drawn(folder, size)
  sound = folder / f"sound_{size.seconds:g}s.wav"
  noise = np.random.default_rng(0).normal(
    0, 3000, round(size.seconds * _SAMPLE_RATE)
  )
  with wave.open(str(sound), "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(_SAMPLE_RATE)
    file.writeframes(noise.astype("<i2").tobytes())
  table = pa.Table.from_pylist(
    [
      {"id": f"row {row}", "video": video.name, "audio": sound.name}
      for row in range(setting.num_rows)
    ]
  )
  write_table(table, folder / "rows.jsonl")
  return RowSource(
    read_manifest(folder / "rows.jsonl"),
    {
      "video": VideoInput(setting.num_frames, _RESOLUTION, "random_crop"),
      "audio": WaveformInput(_SAMPLE_RATE, _SAMPLE_RATE),
    },
    captions="draw",
  )


def measure(
  source: RowSource,
  setting: Setting,
  *,
  devices: Sequence[str] = DEVICES,
  tell: Callable[[str], Any] = lambda what: None,
) -> list[Overlap]:
  """Runs the loops, with threads and with worker processes.

  The step is 1.5 times as long as the pipeline takes for a batch, so that the
  pipeline suffices with something to spare.

  Args:
    source: The rows.
    setting: How batches are made.
    devices: Which steps to run.
    tell: Is told what is being measured.

  Returns:
    A result for each pipeline and step.
  """
  tell("loading alone")
  loading = _seconds_per_turn(_batches(source, setting, None), setting)
  found = []
  for pipeline in PIPELINES:
    tell(f"{pipeline} alone")
    pace = _seconds_per_turn(_batches(source, setting, pipeline), setting)
    for device in devices:
      tell(f"{pipeline}, {device}")
      run = _DEVICES[device](_SPARE * pace)
      alone = [_seconds(run) for _ in range(_CALLS)]
      turn = _seconds_per_turn(
        _batches(source, setting, pipeline), setting, run
      )
      # Before and after, since a machine may have other things to do.
      alone += [_seconds(run) for _ in range(_CALLS)]
      step = statistics.median(alone)
      found.append(Overlap(pipeline, device, loading, pace, step, turn))
  return found


def _batches(source: RowSource, setting: Setting, pipeline: str | None) -> Any:
  """The iterator of a pipeline; None: nothing is prepared ahead."""
  num = setting.num_workers
  ways: dict[str | None, dict[str, Any]] = {
    None: {"prefetch": 0},
    "threads": {"prefetch": setting.prefetch, "num_threads": num},
    "processes": {"prefetch": setting.prefetch, "num_workers": num},
  }
  return training_iterator(
    source,
    batch_size=setting.batch_size,
    seed=0,
    process_index=0,
    process_count=1,
    **ways[pipeline],
  )


def _seconds_per_turn(
  batches: Any, setting: Setting, step: Callable[[], Any] = lambda: None
) -> float:
  """Seconds of a turn of the loop, once all that starts has started.

  The first turns use up what was prepared before the first step; so what is
  timed is what goes on for as long as training does.
  """
  try:
    for _ in range(setting.prefetch + setting.num_workers + 1):
      _take(batches)
      step()
    start = time.perf_counter()
    for _ in range(setting.num_turns):
      _take(batches)
      step()
    return (time.perf_counter() - start) / setting.num_turns
  finally:
    batches.close()


def _take(batches: Any) -> None:
  failures = next(batches)["failures"]
  if failures:
    raise ValueError(f"the rows cannot be read: {failures[0].reason}")


def _timer(seconds: float) -> Callable[[], Any]:
  """An emulated device: time passes, and no CPU is used."""
  return lambda: time.sleep(seconds)


def _computation(seconds: float) -> Callable[[], Any]:
  """A jitted computation that takes about so long on an idle CPU."""
  x = jnp.eye(_WIDTH)

  @jax.jit
  def multiply(x: jax.Array, times: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, times, lambda _, y: y @ x, x)

  def run(times: int) -> Any:
    return jax.block_until_ready(multiply(x, jnp.int32(times)))

  run(1)
  per_product = min(_seconds(lambda: run(100)) for _ in range(3)) / 100
  times = max(1, round(seconds / per_product))
  return lambda: run(times)


def _seconds(call: Callable[[], Any]) -> float:
  start = time.perf_counter()
  call()
  return time.perf_counter() - start


_DEVICES = {"timer": _timer, "cpu": _computation}
