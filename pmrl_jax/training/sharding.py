"""Mesh and shardings: the only file that names devices.

Data parallelism: the batch is split over the mesh axis `data`, parameters and
optimizer state are replicated. The compiler inserts the collectives, so the
same program runs on one device and on many.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_BATCH_AXIS = "data"


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """A one-dimensional mesh over all devices of all processes.

  Args:
    devices: The devices to use; all of them, if not given.

  Returns:
    A mesh with the axis `data`.
  """
  devices = jax.devices() if devices is None else devices
  # Auto: the compiler shards the products of directions of the contrastive
  # term; under Explicit, which is the default, `u @ u.T` raises.
  return jax.make_mesh(
    (len(devices),),
    (_BATCH_AXIS,),
    axis_types=(AxisType.Auto,),
    devices=devices,
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding that splits the first dimension over the devices."""
  return NamedSharding(mesh, PartitionSpec(_BATCH_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding that keeps a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
  """Checks that a global batch splits evenly over the mesh.

  Args:
    batch_size: Number of instances in the global batch.
    mesh: The mesh.

  Raises:
    ValueError: If it does not.
  """
  count = mesh.size
  if batch_size < 1 or batch_size % count:
    nearest = max(count, batch_size // count * count)
    raise ValueError(
      f"the batch size must be a positive multiple of the number of devices, "
      f"got {batch_size} for {count} devices; try {nearest}"
    )


def shard_batch(batch: Any, mesh: Mesh) -> Any:
  """Puts this process's slice of a global batch on its devices.

  Args:
    batch: A tree of NumPy arrays `[batch / processes, ...]`.
    mesh: The mesh.

  Returns:
    The tree of global arrays `[batch, ...]`, split over the devices.
  """
  sharding = batch_sharding(mesh)
  return jax.tree.map(
    lambda x: jax.make_array_from_process_local_data(sharding, x), batch
  )


def replicate(tree: Any, mesh: Mesh) -> Any:
  """Copies a tree of arrays to every device of the mesh."""
  return jax.device_put(tree, replicated(mesh))


def replicated_jit(mesh: Mesh) -> Callable[[Callable], Callable]:
  """`jax.jit` for functions whose result every process wants whole.

  Args:
    mesh: The mesh of the arguments, however they are sharded.

  Returns:
    A decorator.
  """
  return lambda function: jax.jit(function, out_shardings=replicated(mesh))
