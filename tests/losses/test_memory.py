"""Temporary memory of the compiled programs, by the compiler's own account."""

import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import pmrl_loss

# Large programs to compile.
pytestmark = pytest.mark.slow

BATCH, NUM_MODALITIES, DIM, BLOCK = 8192, 2, 16, 64
LOGITS = BATCH * BATCH * 4  # bytes of one matrix of them
EMBEDDINGS = BATCH * NUM_MODALITIES * DIM * 4


def temporary_bytes(num_devices, contrast, **options):
  """Of the gradient of the loss, on each device."""

  def loss(x):
    return pmrl_loss(x, contrast=contrast, solver="gram", **options).loss

  mesh = jax.make_mesh(
    (num_devices,),
    ("data",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:num_devices],
  )
  split = PartitionSpec("data")
  if "axis_name" in options:
    loss = jax.shard_map(
      loss, mesh=mesh, in_specs=split, out_specs=PartitionSpec()
    )
  x = jax.ShapeDtypeStruct(
    (BATCH, NUM_MODALITIES, DIM),
    jnp.float32,
    sharding=NamedSharding(mesh, split),
  )
  program = jax.jit(jax.grad(loss)).lower(x).compile()
  return program.memory_analysis().temp_size_in_bytes


gathered = {"axis_name": "data"}
ring = {"axis_name": "data", "ring": True}


@pytest.mark.parametrize("contrast", ["directions", "modalities"])
@pytest.mark.parametrize(
  "num_devices,options", [(1, {}), (8, {}), (8, gathered), (8, ring)]
)
def test_blocks_need_no_matrix_of_logits(num_devices, contrast, options):
  measure = functools.partial(temporary_bytes, num_devices, contrast)
  used = measure(block_size=BLOCK, **options)
  # A few blocks of logits per task and way, and a few copies of embeddings.
  block = BATCH // num_devices * BLOCK * 4
  assert used < 8 * block * NUM_MODALITIES + 20 * EMBEDDINGS
  assert used < LOGITS / 4
  # The bound is one that the dense form breaks.
  assert temporary_bytes(1, contrast) > LOGITS
