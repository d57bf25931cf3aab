"""The objective of the library, the one anybody would write, and its floors.

A floor is what the instance term costs if its queries and keys are given: the
products of all instances and their cross-entropy, in plain JAX. A loss over
the same products can hardly be faster, unless it saves one of them.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from pmrl_jax import losses

SOLVERS = ("gram", "svd")
CONTRASTS = ("directions", "modalities", "pairs")

# The whole objective for each contrast: as published, or with the orientation
# that is the default.
OBJECTIVES: dict[str, dict[str, Any]] = {
  "directions": dict(losses.PUBLISHED),
  "modalities": {"orientation": "consensus", "contrast": "modalities"},
  "pairs": {"orientation": "consensus", "contrast": "pairs"},
}
TEMPERATURE = losses.PUBLISHED["instance_temperature"]


def pmrl(
  x: jax.Array, *, contrast: str, solver: str, **options: Any
) -> jax.Array:
  """The library's objective, `[]`, with the given contrast and solver."""
  objective = {**OBJECTIVES[contrast], **options}
  return losses.pmrl_loss(x, solver=solver, **objective).loss  # type: ignore[arg-type]


def plain_svd(x: jax.Array) -> jax.Array:
  """The published objective as anybody would write it.

  Args:
    x: `[batch, modality, dim]`.

  Returns:
    `[]`, the value of `pmrl_loss(x, **PUBLISHED)`. Its gradient comes from
    that of `jnp.linalg.svd`, and is finite at generic points only.
  """
  x = x.astype(jnp.float32)
  z = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  _, singular_values, vectors = jnp.linalg.svd(z, full_matrices=False)
  alignment_temperature = losses.PUBLISHED["alignment_temperature"]
  alignment = -jax.nn.log_softmax(singular_values / alignment_temperature)
  u = vectors[:, 0]
  projections = jnp.einsum("bnd,bd->b", z, u)
  u = jnp.where(projections[:, None] < 0, -u, u)
  return jnp.mean(alignment[:, 0]) + instance_logits(u, u)


def instance_logits(
  queries: jax.Array, keys: jax.Array, *, both_ways: bool = False
) -> jax.Array:
  """Cross-entropy of all products `[batch, batch]`, written plainly; `[]`."""
  # The precision of the library's products: on accelerators the default would
  # be another, faster, computation.
  products = jnp.einsum(
    "bd,Bd->bB",
    queries.astype(jnp.float32),
    keys.astype(jnp.float32),
    precision="highest",
  )
  logits = products / TEMPERATURE
  loss = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=1)))
  if both_ways:
    back = -jnp.mean(jnp.diagonal(jax.nn.log_softmax(logits, axis=0)))
    loss = (loss + back) / 2
  return loss


def floor_directions(u: jax.Array) -> jax.Array:
  """The instance term of given directions `[batch, dim]`; `[]`."""
  return instance_logits(u, u)


def floor_modalities(operands: tuple[jax.Array, jax.Array]) -> jax.Array:
  """The mean over given queries and keys `[modality, batch, dim]`; `[]`."""
  terms = [instance_logits(q, k) for q, k in zip(*operands)]
  return functools.reduce(jnp.add, terms) / len(terms)


def floor_pairs(z: jax.Array) -> jax.Array:
  """The mean over all pairs of given vectors `[modality, batch, dim]`; `[]`."""
  pairs = list(itertools.combinations(range(len(z)), 2))
  terms = [instance_logits(z[i], z[j], both_ways=True) for i, j in pairs]
  return functools.reduce(jnp.add, terms) / len(terms)
