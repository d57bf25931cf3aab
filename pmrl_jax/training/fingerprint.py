"""Checksums of a state, the same however it lies on devices."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding


def fingerprint(tree: Any) -> dict[str, int]:
  """Checksums of all arrays by their path in the tree.

  They are computed where the arrays lie; nothing but the sums is gathered.

  Args:
    tree: Arrays, sharded alike over the same devices or each in its own way.

  Returns:
    `{path: uint32}`.
  """
  paths, arrays = zip(*jax.tree.leaves_with_path(tree))
  sharding = getattr(arrays[0], "sharding", None)
  if isinstance(sharding, NamedSharding):
    # Every process reads all sums.
    sharding = NamedSharding(sharding.mesh, PartitionSpec())
  sums = np.asarray(_checksums(sharding)(arrays)).tolist()
  return dict(zip(map(jax.tree_util.keystr, paths), sums))


@functools.cache
def _checksums(sharding: Sharding | None) -> Any:
  """Compiles the sums of several arrays, with a sharding of the result."""
  return jax.jit(
    lambda arrays: jnp.stack([_checksum(x) for x in arrays]),
    out_shardings=sharding,
  )


def _checksum(x: jax.Array) -> jax.Array:
  """A position-dependent sum of an array's bits, uint32.

  Integer sums do not depend on the order, hence neither on the sharding nor
  on the number of devices, each of which sums the part that it holds.
  """
  unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
  if x.dtype == jnp.bool_:
    bits = x.astype(unsigned)
  else:
    bits = jax.lax.bitcast_convert_type(x, unsigned)
  # In the order of rows. From one index for each axis, since of a range that
  # is reshaped every device would make the whole.
  position = jnp.zeros(x.shape, jnp.uint32)
  for axis in range(x.ndim):
    stride = math.prod(x.shape[axis + 1 :]) % 2**32
    index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    position += index * jnp.uint32(stride)
  weights = 2 * position * jnp.uint32(2654435761) + 1  # odd: no bit is lost
  return jnp.sum(bits.astype(jnp.uint32) * weights, dtype=jnp.uint32)
