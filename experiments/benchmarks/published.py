"""The published computation, in PyTorch, where a PyTorch is installed.

It stacks an instance's embeddings as the columns of `[dim, modality]` and has
`torch.linalg.svd` compute the full `[dim, dim]` matrix of left vectors.
"""

import importlib.metadata
import importlib.util
import itertools
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.cases import Case, Contestant, Skipped, embeddings
from pmrl_jax.losses import PUBLISHED


def contestants() -> list[Contestant]:
  """The published loss with full and thin matrices, and pairwise InfoNCE."""
  return [
    Contestant(
      "torch svd, full matrices", "floor directions", _build(_pmrl(full=True))
    ),
    Contestant(
      "torch svd, thin", "floor directions", _build(_pmrl(full=False))
    ),
    Contestant("torch InfoNCE, pairs", "floor pairs", _build(_info_nce)),
  ]


def version() -> str | None:
  """The version of PyTorch; None without one."""
  if importlib.util.find_spec("torch") is None:
    return None
  return importlib.metadata.version("torch")


def torch_on_cpu(dtype: str) -> Any:
  """The module `torch`, for a contest on the CPU.

  Args:
    dtype: Of the numbers.

  Raises:
    Skipped: If PyTorch cannot take part.
  """
  if version() is None:
    raise Skipped("PyTorch is not installed")
  if jax.default_backend() != "cpu":
    raise Skipped("PyTorch is timed on the CPU only")
  if dtype != "float32":
    raise Skipped(f"torch.linalg.svd knows no {dtype}")
  # Its threads would spin for work on the cores of whoever comes next.
  os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
  import torch  # type: ignore[import-not-found,unused-ignore]

  return torch


def _build(loss: Callable[[Any], Any]) -> Callable[[Case], Callable[[], Any]]:
  def build(case: Case) -> Callable[[], Any]:
    torch = torch_on_cpu(case.dtype)
    x = torch.tensor(np.array(embeddings(case)), requires_grad=True)

    def call() -> Any:
      value = loss(x)
      (gradient,) = torch.autograd.grad(value, x)
      return value.detach(), gradient

    return call

  return build


def _pmrl(*, full: bool) -> Callable[[Any], Any]:
  def loss(x: Any) -> Any:
    """`[]` for `x` `[batch, modality, dim]`."""
    import torch

    z = torch.nn.functional.normalize(x, dim=-1).transpose(1, 2)
    vectors, singular_values, _ = torch.linalg.svd(z, full_matrices=full)
    logits = singular_values / PUBLISHED["alignment_temperature"]
    alignment = -torch.log_softmax(logits, dim=-1)[:, 0].mean()
    u = vectors[:, :, 0]
    products = u @ u.T / PUBLISHED["instance_temperature"]
    return alignment + torch.nn.functional.cross_entropy(
      products, torch.arange(len(x))
    )

  return loss


def _info_nce(x: Any) -> Any:
  """`[]` for `x` `[batch, modality, dim]`: CLIP's loss for all pairs."""
  import torch

  cross_entropy, own = torch.nn.functional.cross_entropy, torch.arange(len(x))
  z = torch.nn.functional.normalize(x, dim=-1).unbind(1)
  terms = []
  for a, b in itertools.combinations(z, 2):
    logits = a @ b.T / PUBLISHED["instance_temperature"]
    terms.append(
      (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    )
  return torch.stack(terms).mean()
