"""How long steps take to compile, and what memory they need; none is run."""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments.benchmarks.compilation import temporary_bytes
from experiments.benchmarks.steps import (
  SIZES,
  StepCase,
  build_model,
  make_step,
)
from pmrl_jax.encoders.stack import REMAT_POLICIES


class TowerCompilation(NamedTuple):
  """A vision tower of some depth, forward and backward."""

  case: StepCase
  depth: int
  scan_layers: bool
  tracing: float  # seconds, up to what the compiler is given
  compiling: float  # seconds


class StepMemory(NamedTuple):
  """A whole step under a policy of what to compute again."""

  case: StepCase
  remat: str
  compiling: float  # seconds
  temporary_bytes: int  # beside arguments and results
  argument_bytes: int  # the state and the batch


def compile_tower(
  case: StepCase, depth: int, *, scan_layers: bool
) -> TowerCompilation:
  """Compiles the vision tower alone, with another depth."""
  size = SIZES[case.size]
  tower: Any = build_model(case, scan_layers=scan_layers).encoders["vision"]
  tower = tower.clone(depth=depth)
  images = jax.ShapeDtypeStruct(
    (case.batch * size.num_frames, size.image_size, size.image_size, 3),
    jnp.float32,
  )
  key = jax.eval_shape(lambda: jax.random.key(0))
  params = jax.eval_shape(
    lambda key, images: tower.init(key, images, train=False), key, images
  )

  def loss(params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
    tokens = tower.apply(params, images, train=True, rngs={"dropout": key})
    return jnp.mean(jnp.square(tokens.astype(jnp.float32)))

  start = time.perf_counter()
  lowered = jax.jit(jax.value_and_grad(loss)).lower(params, images, key)
  traced = time.perf_counter()
  lowered.compile()
  compiled = time.perf_counter()
  return TowerCompilation(
    case, depth, scan_layers, traced - start, compiled - traced
  )


def compile_step(case: StepCase, remat: str) -> StepMemory:
  """Compiles a whole step for the device at hand."""
  lowered = make_step(case, build_model(case, remat=remat)).lower()
  start = time.perf_counter()
  compiled = lowered.compile()
  seconds = time.perf_counter() - start
  arguments = sum(
    leaf.size * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(lowered.in_avals)
  )
  return StepMemory(case, remat, seconds, temporary_bytes(compiled), arguments)


def plan_towers(depths: Sequence[int]) -> list[tuple[int, bool]]:
  """Depths, each in a loop and unrolled."""
  return [(depth, scan) for depth in depths for scan in (True, False)]


POLICIES = tuple(REMAT_POLICIES)
