"""Static checks of what a caller passes in: free of cost under `jit`."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp


def check_embeddings(
  embeddings: jax.Array, where: jax.Array | None = None
) -> None:
  """Checks `[batch, modality, dim]` and the presence mask that goes with it.

  Args:
    embeddings: what should be floating `[batch, modality, dim]`.
    where: what should be bool `[batch, modality]`, or None.

  Raises:
    TypeError: for a dtype that is not floating (or not bool).
    ValueError: for another rank, fewer than two modalities or another mask.
  """
  _check_rank(embeddings, "embeddings", ("batch", "modality", "dim"))
  if embeddings.shape[1] < 2:
    raise ValueError(
      "`embeddings` must hold at least two modalities along axis 1, got shape "
      f"{embeddings.shape}; stack [batch, dim] arrays with "
      "jnp.stack(arrays, axis=1)."
    )
  _check_where(where, embeddings.shape[:2], "[batch, modality]")


def check_directions(
  directions: jax.Array, where: jax.Array | None = None
) -> None:
  """Checks `[batch, dim]` and the mask of the instances that exist.

  Args:
    directions: what should be floating `[batch, dim]`.
    where: what should be bool `[batch]`, or None.

  Raises:
    TypeError: for a dtype that is not floating (or not bool).
    ValueError: for another rank or another mask.
  """
  _check_rank(directions, "directions", ("batch", "dim"))
  _check_where(where, directions.shape[:1], "[batch]")


def check_ids(ids: jax.Array | None, batch: int) -> None:
  """Checks that `ids` is None or integers `[batch]`.

  Args:
    ids: what should be integers `[batch]`, or None.
    batch: the number of instances.

  Raises:
    TypeError: for a dtype that is not an integer one.
    ValueError: for another shape.
  """
  if ids is None:
    return
  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise TypeError(
      f"`ids` must be integers [batch], got dtype {ids.dtype}; number the "
      "instances, for example with numpy.unique(names, return_inverse=True)."
    )
  if ids.shape != (batch,):
    raise ValueError(
      f"`ids` must have shape [batch] = ({batch},), got {ids.shape}; give one "
      "integer per instance."
    )


def check_temperature(temperature: Any, name: str = "temperature") -> None:
  """Checks that a temperature is a scalar, positive where that is known.

  Args:
    temperature: a Python number, or an array (of a learned temperature), whose
      value is not looked at.
    name: the argument's name, for the message.

  Raises:
    ValueError: for an array that is no scalar, or a number that is not > 0.
  """
  if jnp.ndim(temperature):
    raise ValueError(
      f"`{name}` must be a scalar, got shape {jnp.shape(temperature)}; index "
      "or squeeze it first."
    )
  if isinstance(temperature, numbers.Real) and not float(temperature) > 0:
    raise ValueError(
      f"`{name}` must be positive, got {temperature}; logits are divided by "
      "it, and usual values lie between 0.01 and 1."
    )


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> None:
  """Checks that a string is one of the choices.

  Args:
    value: what the caller chose.
    name: the argument's name, for the message.
    choices: all that can be chosen.

  Raises:
    ValueError: if it is none of them.
  """
  if value not in choices:
    listed = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"`{name}` must be one of {listed}; got {value!r}.")


def _check_rank(x: jax.Array, name: str, axes: tuple[str, ...]) -> None:
  wanted = f"[{', '.join(axes)}]"
  if x.ndim != len(axes):
    raise ValueError(
      f"`{name}` must have shape {wanted}, got {x.shape}; add or merge axes "
      "first."
    )
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(
      f"`{name}` must be real floating-point numbers {wanted}, got dtype "
      f"{x.dtype}; convert with .astype(jnp.float32)."
    )


def _check_where(
  where: jax.Array | None, shape: tuple[int, ...], wanted: str
) -> None:
  if where is None:
    return
  if where.dtype != jnp.bool_:
    raise TypeError(
      f"`where` must be bool {wanted}, got dtype {where.dtype}; compare with "
      "zero, as in mask != 0."
    )
  if where.shape != shape:
    raise ValueError(
      f"`where` must have shape {wanted} = {shape}, got {where.shape}; give "
      "one bool per embedding."
    )
