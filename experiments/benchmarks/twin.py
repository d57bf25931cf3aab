"""The published model and its training step in PyTorch, to compare ours with.

Written for this comparison, from PyTorch's own parts, as one would today:
fused attention (`scaled_dot_product_attention`), fused AdamW, and the thin
`torch.linalg.svd`, where the published code has the full one. It starts from
our parameters under their official names, and is timed only if it has our
loss.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import machine, published
from experiments.benchmarks.cases import Contestant, Skipped
from experiments.benchmarks.steps import (
  LEARNING_RATE,
  SIZES,
  StepCase,
  build_model,
  inputs,
  make_objective,
  make_step,
)
from experiments.benchmarks.twin_loss import make_loss, next_one
from experiments.benchmarks.twin_parts import twin_modules
from pmrl_jax.training import PUBLISHED_OPTIMIZER
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.state_dict import to_state_dict

EAGER, COMPILED = "torch, eager", "torch, compiled"
TOLERANCE = 1e-4  # of the losses, relative
_VISION_RATE = 5e-7


def contestants() -> list[Contestant[StepCase]]:
  """The twin, eager and compiled, where PyTorch is installed."""
  return [
    Contestant(EAGER, EAGER, functools.partial(_build, False)),
    Contestant(COMPILED, EAGER, functools.partial(_build, True)),
  ]


def make_twin(case: StepCase, params: Any) -> Any:
  """The twin with given parameters, of `build_model`."""
  import torch  # type: ignore[import-not-found,unused-ignore]

  twin = twin_modules(SIZES[case.size])
  tensors = to_state_dict(params, published_table(build_model(case)))
  # All of them, and no others.
  twin.load_state_dict(
    {key: torch.from_numpy(np.array(array)) for key, array in tensors},
    strict=True,
  )
  return twin


def twin_batch(case: StepCase) -> dict[str, Any]:
  """The batch of `inputs`, as PyTorch has it: channels before pixels."""
  import torch

  batch = inputs(case)
  batch["vision"] = np.ascontiguousarray(np.moveaxis(batch["vision"], -1, 2))
  for name in ("text", "subtitle"):
    batch[name] = batch[name].astype(np.int64)
  return {name: torch.from_numpy(array) for name, array in batch.items()}


def make_optimizer(twin: Any) -> Any:
  """AdamW with the published groups of parameters."""
  import torch

  groups: dict[tuple[bool, bool], list[Any]] = {}
  for name, parameter in twin.named_parameters():
    decays = "bias" not in name and "LayerNorm.weight" not in name
    groups.setdefault(("visual" in name, decays), []).append(parameter)
  options = PUBLISHED_OPTIMIZER
  return torch.optim.AdamW(
    [
      {
        "params": members,
        "lr": _VISION_RATE if is_visual else LEARNING_RATE,
        "weight_decay": options["weight_decay"] if decays else 0.0,
      }
      for (is_visual, decays), members in groups.items()
    ],
    betas=(options["b1"], options["b2"]),
    eps=options["eps"],
    fused=True,
  )


@functools.cache
def losses(case: StepCase) -> tuple[float, float]:
  """Our loss and the twin's, with the same negatives; not for dropout."""
  step = make_step(case)
  params = jax.jit(step.start)().params
  ours, _ = jax.jit(make_objective(build_model(case), draw=following))(
    params, step.batch, jax.random.key(0)
  )
  twin = make_twin(case, params)
  theirs = make_loss(twin, case, draw=next_one)(twin_batch(case))
  return float(ours), float(theirs.detach())


def following(
  key: jax.Array, similarities: jax.Array, **options: Any
) -> jax.Array:
  """Takes the next instance for a negative."""
  del key, options
  return jnp.roll(jnp.arange(similarities.shape[0], dtype=jnp.int32), -1)


def _build(is_compiled: bool, case: StepCase) -> Callable[[], Any]:
  torch = published.torch_on_cpu(case.dtype)
  torch.set_num_threads(machine.cores())
  ours, theirs = losses(case._replace(dropout=False))
  if not abs(ours - theirs) <= TOLERANCE * abs(ours):
    raise Skipped(f"its loss is {theirs:.6g} and ours {ours:.6g}")
  torch.manual_seed(0)
  twin = make_twin(case, jax.jit(make_step(case).start)().params)
  loss = make_loss(twin, case)
  if is_compiled:
    loss = torch.compile(loss)
  batch, optimizer = twin_batch(case), make_optimizer(twin)

  def call() -> float:
    optimizer.zero_grad()
    value = loss(batch)
    value.backward()
    optimizer.step()
    return float(value.detach())

  if is_compiled:
    # What it cannot compile, or lacks to compile, shows in the first call.
    try:
      call()
    except Exception as error:
      reason = str(error).strip().splitlines() or [type(error).__name__]
      raise Skipped(f"torch.compile fails: {reason[0]:.120}") from error
  return call
