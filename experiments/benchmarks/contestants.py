"""Who is timed: the losses of the library, their rivals and their floors."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import published
from experiments.benchmarks.cases import (
  Case,
  Contestant,
  Skipped,
  embeddings,
  keys_and_queries,
)
from experiments.benchmarks.compilation import temporary_bytes
from experiments.benchmarks.objectives import (
  CONTRASTS,
  SOLVERS,
  TEMPERATURE,
  floor_directions,
  floor_modalities,
  floor_pairs,
  plain_svd,
  pmrl,
)
from pmrl_jax import losses

# A call may take so much of the memory that is free when it is prepared.
_LARGEST_SHARE = 0.6


def contestants(num_modalities: int) -> list[Contestant]:
  """All that take part for a number of modalities, floors first."""
  everyone = [
    Contestant(f"floor {name}", f"floor {name}", _floor(name))
    for name in CONTRASTS
  ]
  everyone += [
    Contestant(
      f"pmrl {contrast} {solver}",
      f"floor {contrast}",
      _of_embeddings(functools.partial(pmrl, contrast=contrast, solver=solver)),
    )
    for contrast in CONTRASTS
    for solver in SOLVERS
  ]
  everyone.append(
    Contestant(
      "plain svd autodiff", "floor directions", _of_embeddings(plain_svd)
    )
  )
  everyone += [
    Contestant(name, f"floor {floor}", _of_embeddings(loss))
    for name, floor, loss in _rivals(num_modalities)
  ]
  return everyone + published.contestants()


def _rivals(
  num_modalities: int,
) -> list[tuple[str, str, Callable[[jax.Array], jax.Array]]]:
  """Name, floor and mean loss `[]` of the other losses."""
  shuffle = {"key": jax.random.key(0)}
  rivals: dict[str, tuple[str, Callable[..., jax.Array], dict[str, Any]]] = {
    "pairwise": ("pairs", losses.pairwise_contrastive_loss, {}),
    "sigmoid": ("pairs", losses.sigmoid_contrastive_loss, {"bias": -10.0}),
    "volume": ("directions", losses.volume_contrastive_loss, {}),
    "product": ("directions", losses.product_contrastive_loss, shuffle),
  }
  if num_modalities == 3:
    rivals["area"] = ("directions", losses.area_contrastive_loss, {})
  return [
    (name, floor, functools.partial(_mean_of, loss, options))
    for name, (floor, loss, options) in rivals.items()
  ]


def _mean_of(
  loss: Callable[..., jax.Array], options: dict[str, Any], x: jax.Array
) -> jax.Array:
  return jnp.mean(loss(x, temperature=TEMPERATURE, **options))


def _floor(contrast: str) -> Callable[[Case], Callable[[], Any]]:
  def build(case: Case) -> Callable[[], Any]:
    if contrast == "directions":
      return _prepare(floor_directions, keys_and_queries(case, 1)[0][0])
    q, k = keys_and_queries(case, case.num_modalities)
    if contrast == "modalities":
      return _prepare(floor_modalities, (q, k))
    return _prepare(floor_pairs, q)

  return build


def _of_embeddings(
  loss: Callable[[jax.Array], jax.Array],
) -> Callable[[Case], Callable[[], Any]]:
  return lambda case: _prepare(loss, embeddings(case))


def _prepare(loss: Callable[[Any], jax.Array], x: Any) -> Callable[[], Any]:
  """Compiles value and gradient; refuses what may not fit in memory."""
  compiled = jax.jit(jax.value_and_grad(loss)).lower(x).compile()
  needed, free = temporary_bytes(compiled), _free_memory()
  if needed > _LARGEST_SHARE * free:
    raise Skipped(
      f"needs {needed / 1e9:.1f} GB of temporary memory, {free / 1e9:.1f} GB "
      "are free"
    )
  return lambda: jax.block_until_ready(compiled(x))


def _free_memory() -> float:
  """Bytes that are free on the device, as far as it tells."""
  statistics = jax.devices()[0].memory_stats()
  if statistics and "bytes_limit" in statistics:
    return statistics["bytes_limit"] - statistics["bytes_in_use"]
  if "SC_AVPHYS_PAGES" in os.sysconf_names:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
  return np.inf
