"""The memory that the compiler sets aside; nothing is run."""

import concurrent.futures
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax

from experiments.benchmarks.cases import Case
from experiments.benchmarks.compilation import (
  Form,
  compile_objective,
  forms,
  temporary_bytes,
)

NUM_FAKE_DEVICES = 8


class Memory(NamedTuple):
  """Memory of one form on each of its devices."""

  case: Case
  form: Form
  num_devices: int
  temporary_bytes: int | None  # beside arguments and results
  failure: str | None = None  # why there is no figure


def plan(
  cases: Sequence[Case], contrasts: Sequence[str], block_size: int
) -> list[tuple[Case, Form, int]]:
  """What to compile: cases, forms and numbers of devices.

  Batches that many devices cannot share evenly are left to one.
  """
  one = [
    Form(contrast, "jit", size)
    for contrast in contrasts
    for size in (None, block_size)
  ]
  many = forms(contrasts, block_size)
  return [(case, form, 1) for case in cases for form in one] + [
    (case, form, NUM_FAKE_DEVICES)
    for case in cases
    for form in many
    if case.batch % NUM_FAKE_DEVICES == 0
  ]


def measure(case: Case, form: Form, num_devices: int) -> Memory:
  """Compiles one form for devices of this process."""
  try:
    compiled = compile_objective(case, form, jax.devices()[:num_devices])
  except jax.errors.JaxRuntimeError as error:
    return Memory(case, form, num_devices, None, str(error).splitlines()[0])
  temporary = temporary_bytes(compiled)
  return Memory(case, form, num_devices, temporary)


def measure_all(todo: Sequence[tuple[Case, Form, int]]) -> Iterator[Memory]:
  """Compiles all forms; several devices are faked in a process of their own.

  There the devices are always CPUs; one device is the one at hand.
  """
  for case, form, num_devices in todo:
    if num_devices == 1:
      yield measure(case, form, 1)
  many = [item for item in todo if item[-1] > 1]
  if not many:
    return
  # The number of devices is fixed once a process has asked for them.
  with concurrent.futures.ProcessPoolExecutor(
    max_workers=1,
    mp_context=multiprocessing.get_context("spawn"),
    initializer=_fake_devices,
  ) as pool:
    yield from pool.map(measure, *zip(*many))


def _fake_devices() -> None:
  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_num_cpu_devices", NUM_FAKE_DEVICES)
