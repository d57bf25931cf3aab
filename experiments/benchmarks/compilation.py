"""The objective compiled for devices that hold a part of the batch each."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from experiments.benchmarks import objectives
from experiments.benchmarks.cases import Case
from pmrl_jax import training

# How the devices come to the keys of the others: `jit` leaves it to the
# compiler, the other two run under `shard_map`.
ROUTES = ("jit", "gather", "ring")


class Form(NamedTuple):
  """One way to compute the objective."""

  contrast: str
  route: str  # one of ROUTES
  block_size: int | None  # None: dense

  def __str__(self) -> str:
    """For tables and progress bars."""
    size = (
      "dense" if self.block_size is None else f"blocks of {self.block_size:,}"
    )
    return f"{self.contrast}, {self.route}, {size}"


def forms(contrasts: Sequence[str], block_size: int) -> list[Form]:
  """All ways to compute it on more than one device."""
  return [
    Form(contrast, route, size)
    for contrast in contrasts
    for route in ROUTES
    for size in (None, block_size)
    # Around a ring keys come in blocks anyway: those of a device.
    if (route, size) != ("ring", None)
  ]


def compile_objective(
  case: Case, form: Form, devices: Sequence[jax.Device]
) -> jax.stages.Compiled:
  """Compiles value and gradient for a batch split over the devices.

  Args:
    case: The size; its batch is that of all devices together.
    form: How it is computed.
    devices: What it is compiled for; they need not be there.

  Returns:
    What was compiled; nothing has been run.
  """
  mesh = training.make_mesh(devices=devices)
  axis = "data"  # the other one has size 1
  loss = functools.partial(
    objectives.pmrl,
    contrast=form.contrast,
    solver="gram",
    block_size=form.block_size,
  )
  if form.route != "jit":
    loss = jax.shard_map(
      functools.partial(loss, axis_name=axis, ring=form.route == "ring"),
      mesh=mesh,
      in_specs=PartitionSpec(axis),
      out_specs=PartitionSpec(),
    )
  batch = NamedSharding(mesh, PartitionSpec(axis))
  replicated = NamedSharding(mesh, PartitionSpec())
  x = jax.ShapeDtypeStruct(
    (case.batch, case.num_modalities, case.dim), case.dtype, sharding=batch
  )
  return (
    jax.jit(jax.value_and_grad(loss), out_shardings=(replicated, batch))
    .lower(x)
    .compile()
  )


def compile_gather(
  case: Case, devices: Sequence[jax.Device]
) -> jax.stages.Compiled:
  """Compiles the gathering of one direction of every instance, and no more.

  Args:
    case: The size; its batch is that of all devices together.
    devices: What it is compiled for; they need not be there.

  Returns:
    What was compiled; nothing has been run.
  """
  mesh = training.make_mesh(devices=devices)
  split = PartitionSpec("data")

  def gather(x: jax.Array) -> jax.Array:
    everyone = jax.lax.all_gather(x, "data", tiled=True)
    # Kept apart: the sum of each part would be much less to send.
    return jnp.sum(jax.lax.optimization_barrier(everyone))[None]

  x = jax.ShapeDtypeStruct(
    (case.batch, case.dim), case.dtype, sharding=NamedSharding(mesh, split)
  )
  mapped = jax.shard_map(gather, mesh=mesh, in_specs=split, out_specs=split)
  return jax.jit(mapped).lower(x).compile()


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
  """Memory on each device beside arguments and results.

  Raises:
    RuntimeError: If the compiler of this platform does not tell.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise RuntimeError("the compiler tells nothing about memory")
  return analysis.temp_size_in_bytes
