"""What is measured: sizes, and the functions that compete on them."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp


class Case(NamedTuple):
  """The size of one comparison."""

  batch: int
  num_modalities: int
  dim: int
  dtype: str

  def __str__(self) -> str:
    """For messages and progress bars."""
    return f"B={self.batch:,} N={self.num_modalities} d={self.dim} {self.dtype}"


C = TypeVar("C")  # a kind of case


class Contestant(NamedTuple, Generic[C]):
  """A function to time on cases, of losses or of others.

  `build(case)` does all that is not to be timed and returns a call without
  arguments that comes back when everything is computed. It raises `Skipped`
  where it cannot take part.
  """

  name: str
  floor: str  # the contestant whose time it is compared with
  build: Callable[[C], Callable[[], Any]]


class Skipped(Exception):
  """Why a contestant does not take part in a case."""


def embeddings(case: Case) -> jax.Array:
  """Random embeddings `[batch, modality, dim]` that agree in part.

  Not independent ones: their singular values would all be nearly equal.
  """
  common, own = jax.random.split(jax.random.key(0))
  shape = (case.batch, case.num_modalities, case.dim)
  x = jax.random.normal(common, (case.batch, 1, case.dim))
  return (x + jax.random.normal(own, shape)).astype(case.dtype)


def keys_and_queries(case: Case, num: int) -> tuple[jax.Array, jax.Array]:
  """Two arrays of unit vectors `[num, batch, dim]`, for the floors."""
  x = embeddings(case._replace(num_modalities=2 * num))
  x = jnp.moveaxis(x, 1, 0)
  length = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
  x = x / length.astype(x.dtype)
  return x[:num], x[num:]
