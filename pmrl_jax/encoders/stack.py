"""Equal blocks one after another, compiled once, and what they share.

A deep encoder is one block with parameters stacked along a leading layer
axis: forty layers compile as fast as one, and a checkpoint, a sharding rule
or a count sees one array where there would be forty.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pmrl_jax.encoders.dense import DENSE

# What the backward pass keeps of the forward pass of a block, from all to
# nothing; the rest is computed again.
REMAT_POLICIES: dict[str, Callable[..., bool] | None] = {
  "none": None,
  # The results of the weights' matrix products, not those of attention.
  "dots": jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    jax.checkpoint_policies.save_only_these_names(DENSE),
  ),
  "full": jax.checkpoint_policies.nothing_saveable,
}


def apply_blocks(
  block: nn.Module,
  x: jax.Array,
  per_layer: Any = None,
  *,
  depth: int,
  remat: str = "none",
  scan_layers: bool = True,
  **shared: Any,
) -> jax.Array:
  """Applies `depth` blocks of the same form, each with parameters of its own.

  To be called in a `@nn.compact` method, with a block made there. Its
  parameters get a leading layer axis, and so does what it sows into
  "intermediates".

  Args:
    block: Called as `block(x, per_layer, **shared)`; returns the next `x`.
    x: What goes from block to block.
    per_layer: A tree of arrays `[layer, ...]` of which every block gets its
      own slice, such as drop rates.
    depth: The number of blocks.
    remat: One of `REMAT_POLICIES`: what is computed again in the backward
      pass to save memory.
    scan_layers: Whether the blocks compile as a loop. Unrolled they compile
      slower, and run faster on a CPU, where XLA then merges what `remat`
      computes again with the first time, so that no memory is saved.
      Parameters are the same.
    **shared: What all blocks get alike: masks, conditions, `train`.

  Returns:
    What the last block returns.

  Where the mesh in context has an axis `fsdp`, over which parameters are
  split, those of one block at a time are gathered; see
  `training.gather_for`.

  Raises:
    ValueError: If the policy is unknown.
  """
  if remat not in REMAT_POLICIES:
    raise ValueError(
      f"remat must be one of {sorted(REMAT_POLICIES)}, got {remat!r}"
    )

  def body(block: nn.Module, x: jax.Array, per_layer: Any) -> tuple[Any, None]:
    return block(x, per_layer, **shared), None

  if "fsdp" in jax.sharding.get_abstract_mesh().axis_names:
    # Under `remat`, so that gathered parameters are not kept for the backward
    # pass.
    body = nn.map_variables(body, "params", _gathered)
  if remat != "none":
    # A loop cannot be merged with its forward pass anyway.
    body = nn.remat(
      body, policy=REMAT_POLICIES[remat], prevent_cse=not scan_layers
    )
  blocks = nn.scan(
    body,
    variable_axes={"params": 0, "intermediates": 0},
    split_rngs={"params": True, "dropout": True},
    length=depth,
    unroll=1 if scan_layers else depth,
  )
  return blocks(block, x, per_layer)[0]


def _gathered(params: Any) -> Any:
  """The parameters of a block, whole on every device."""
  return jax.lax.with_sharding_constraint(params, PartitionSpec())


def drop_path(
  branch: jax.Array, rate: jax.Array | float, *, key: jax.Array
) -> jax.Array:
  """Stochastic depth: drops a residual branch for whole examples.

  What is kept is divided by the probability to be kept.

  Reference: Huang et al., Deep Networks with Stochastic Depth, arXiv
  1603.09382.

  Args:
    branch: `[batch, ...]`.
    rate: Probability to drop, below 1.
    key: Random key.

  Returns:
    `branch`, zero for the examples that are dropped.
  """
  keep = 1 - jnp.asarray(rate, jnp.float32)
  shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
  kept = jax.random.bernoulli(key, keep, shape)
  return jnp.where(kept, branch / keep.astype(branch.dtype), 0)
