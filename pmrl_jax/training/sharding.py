"""Mesh and shardings: the only file that names devices.

The mesh has two axes. The batch is split over both of them. Over `data`,
parameters and optimizer state are copies; over `fsdp` they are split as well
(Rajbhandari et al., ZeRO, arXiv 1910.02054), so that a device holds a part of
every large array, and gathers a layer when it computes it. The compiler
inserts the collectives, so the same program runs on one device and on many.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_AXES = ("data", "fsdp")
_DEFAULT = {"data": -1, "fsdp": 1}

# Arrays with fewer elements are copied: gathering them takes longer than the
# memory is worth.
MIN_SPLIT_SIZE = 2**16

# Paths of layers that are stacked, as `encoders.apply_blocks` does.
_STACKED = r"(^|/)blocks/"

# Which axes of an array may be split over `fsdp`, by its path; the first
# pattern that is found counts. Of these axes it is the longest that the size
# of `fsdp` divides. Moments of the optimizer and averages have the paths of
# their parameters at the end of their own, hence are split alike.
_RULES = (
  # [layer, ...]: a loop over layers takes one at a time.
  (_STACKED, slice(1, None)),
  # [row, width]: rows are looked up, and each device finds its part of them.
  (r"(^|[/_])embeddings?$", slice(-1, None)),
  # [..., position, width]: added to tokens of that width.
  (r"(^|/)positions($|/)", slice(-1, None)),
  # Kernels [..., in, out], and whatever else there is.
  (r"", slice(None)),
)


def make_mesh(
  axes: Mapping[str, int] | None = None,
  devices: Sequence[jax.Device] | None = None,
) -> Mesh:
  """A mesh over all devices of all processes.

  On several slices of TPUs the axis `data` spans them, so that what crosses
  the slower network between slices is gradients, and no parameters.

  Args:
    axes: Sizes of `data` and `fsdp`; -1, at most once, is what is left over.
      By default, or if one is not given, `data` is -1 and `fsdp` 1.
    devices: The devices to use; all of them, if not given.

  Returns:
    A mesh with the axes `data` and `fsdp`.

  Raises:
    ValueError: If the sizes are none of the devices, or an axis is unknown.
  """
  devices = jax.devices() if devices is None else devices
  num_slices = len({getattr(d, "slice_index", 0) for d in devices})
  data, fsdp = _sizes({**_DEFAULT, **(axes or {})}, len(devices), num_slices)
  # Without the permission some shapes are no mesh of a slice at all; where the
  # axes of a slice can stay whole, they do.
  if num_slices > 1:
    grid = mesh_utils.create_hybrid_device_mesh(
      (data // num_slices, fsdp),
      (num_slices, 1),
      devices,
      allow_split_physical_axes=True,
    )
  else:
    grid = mesh_utils.create_device_mesh(
      (data, fsdp), devices, allow_split_physical_axes=True
    )
  # Auto: the compiler shards the products of directions of the contrastive
  # term; under Explicit `u @ u.T` raises.
  return Mesh(grid, _AXES, axis_types=(AxisType.Auto,) * len(_AXES))


def _sizes(
  axes: Mapping[str, int], num_devices: int, num_slices: int
) -> tuple[int, int]:
  """Sizes of the axes in order, with what -1 stands for; checked."""
  if unknown := sorted(set(axes) - set(_AXES)):
    raise ValueError(
      f"the axes of a mesh are {list(_AXES)}, got {unknown}; see config.mesh"
    )
  given = ", ".join(f"{name}={axes[name]}" for name in _AXES)
  if any(size < 1 and size != -1 for size in axes.values()):
    raise ValueError(
      f"sizes of a mesh must be positive, or -1 for what is left over, got "
      f"{given}"
    )
  known = [size for size in axes.values() if size != -1]
  if not known:
    raise ValueError(
      f"at most one size of a mesh can be -1, got {given}; set fsdp to 1 for "
      "copies of the parameters on every device"
    )
  rest = num_devices // math.prod(known)
  data, fsdp = (rest if axes[name] == -1 else axes[name] for name in _AXES)
  if data * fsdp == num_devices and not data % num_slices:
    return data, fsdp
  fitting = [
    f"data={num_devices // size}, fsdp={size}"
    for size in range(1, num_devices // num_slices + 1)
    if not num_devices % (size * num_slices)
  ]
  slices = f" in {num_slices} slices, which data spans" * (num_slices > 1)
  raise ValueError(
    f"the sizes of a mesh must multiply to the {num_devices} devices{slices}, "
    f"got {given}; what does: {'; '.join(fitting)}"
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding that splits the first dimension over all devices."""
  return NamedSharding(mesh, PartitionSpec(_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding that keeps a copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state_shardings(state: Any, mesh: Mesh) -> Any:
  """How parameters, and what has their paths and shapes, lie on a mesh.

  Args:
    state: A tree of arrays or shapes: a training state, or parameters.
    mesh: The mesh; if its axis `fsdp` has size 1, everything is copied.

  Returns:
    The tree of shardings.
  """

  def sharding(path: Any, array: Any) -> NamedSharding:
    spec = _spec(_name(path), array.shape, mesh.shape["fsdp"])
    return NamedSharding(mesh, spec)

  return jax.tree_util.tree_map_with_path(sharding, state)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _spec(name: str, shape: Sequence[int], fsdp: int) -> PartitionSpec:
  """Which axis of an array is split over `fsdp`, if any."""
  if fsdp == 1 or math.prod(shape) < MIN_SPLIT_SIZE:
    return PartitionSpec()
  allowed = next(axes for pattern, axes in _RULES if re.search(pattern, name))
  candidates = [
    axis for axis in range(len(shape))[allowed] if not shape[axis] % fsdp
  ]
  if not candidates:
    return PartitionSpec()
  # Of equally long ones the last.
  split = max(candidates, key=lambda axis: (shape[axis], axis))
  return PartitionSpec(*([None] * split), "fsdp")


def gather_for(function: Callable, mesh: Mesh) -> Callable:
  """Has split parameters gathered where they are used.

  Otherwise the compiler may find it cheaper to split every product by its
  features, and to gather all instances on every device instead. Of stacked
  layers one at a time is gathered, which `encoders.apply_blocks` does where a
  mesh is in context.

  Args:
    function: `(params, ...) -> ...`, such as an objective.
    mesh: The mesh that the parameters are split over.

  Returns:
    The function; as it is, if nothing is split.
  """
  if mesh.shape["fsdp"] == 1:
    return function

  def gather(path: Any, array: jax.Array) -> jax.Array:
    if re.search(_STACKED, _name(path)):
      return array
    return jax.lax.with_sharding_constraint(array, replicated(mesh))

  @functools.wraps(function)
  def gathering(params: Any, *args: Any, **kwargs: Any) -> Any:
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      whole = jax.tree_util.tree_map_with_path(gather, params)
      return function(whole, *args, **kwargs)

  return gathering


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


def replicated_jit(
  mesh: Mesh, **options: Any
) -> Callable[[Callable], Callable]:
  """`jax.jit` for functions whose result every process wants whole.

  Args:
    mesh: The mesh of the arguments, however they are sharded.
    **options: Of `jax.jit`.

  Returns:
    A decorator of functions `(params, ...) -> ...`; see `gather_for`.
  """
  return lambda function: jax.jit(
    gather_for(function, mesh), out_shardings=replicated(mesh), **options
  )
