"""Static checks of what a caller passes in: free of cost under `jit`."""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from pmrl_jax.losses._sums import Route


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


def check_contrast(
  route: Route,
  batch: int,
  *,
  ids: jax.Array | None,
  temperature: Any,
  label_smoothing: float = 0.0,
  name: str = "temperature",
) -> None:
  """Checks what all contrastive losses have in common.

  Args:
    route: how keys are to be walked through.
    batch: the number of (local) instances.
    ids: what should be integers `[batch]`, or None.
    temperature: what should be a positive scalar.
    label_smoothing: what should be a number from 0 to below 1.
    name: the name of the argument `temperature`.

  Raises:
    TypeError: for a dtype or a number of another kind.
    ValueError: for a shape or a number out of range, or a mapped axis that
      does not exist.
  """
  check_ids(ids, batch)
  check_temperature(temperature, name)
  if isinstance(label_smoothing, jax.core.Tracer) or not isinstance(
    label_smoothing, numbers.Real
  ):
    raise TypeError(
      "`label_smoothing` must be a Python number, fixed when the loss is "
      f"traced, got {label_smoothing!r}."
    )
  if not 0 <= float(label_smoothing) < 1:
    raise ValueError(
      f"`label_smoothing` must be from 0 to below 1, got {label_smoothing}; "
      "usual values are 0 and 0.1."
    )
  _check_route(route)


def _check_route(route: Route) -> None:
  size = route.block_size
  if size is not None:
    if isinstance(size, bool) or not isinstance(size, numbers.Integral):
      raise TypeError(
        f"`block_size` must be a positive integer or None, got {size!r}."
      )
    if int(size) < 1:
      raise ValueError(
        f"`block_size` must be a positive integer or None, got {size}; it is "
        "the number of keys whose logits are held at once, such as 1024."
      )
  if route.ring and route.axis_name is None:
    raise ValueError(
      "`ring=True` passes keys around a mapped axis, so it needs `axis_name`, "
      "got None; call the loss inside jax.shard_map and name its axis."
    )
  if route.axis_name is not None:
    try:
      jax.lax.axis_size(route.axis_name)
    except NameError:
      raise ValueError(
        f"`axis_name` is {route.axis_name!r}, but no such axis is mapped "
        "here; call the loss inside jax.shard_map or jax.pmap over it, or "
        "leave `axis_name` out: under jax.jit a sharded batch needs none."
      ) from None


def check_anchor(anchor: Any, num_modalities: int) -> int:
  """Checks the index of an anchor modality and makes it non-negative.

  Args:
    anchor: what should be an integer below the number of modalities.
    num_modalities: their number.

  Returns:
    The index, counted from the first modality.

  Raises:
    TypeError: for something else than an integer.
    ValueError: for an index that does not exist.
  """
  if isinstance(anchor, bool) or not isinstance(anchor, numbers.Integral):
    raise TypeError(
      f"`anchor` must be the index of a modality, an integer, got {anchor!r}."
    )
  if not -num_modalities <= int(anchor) < num_modalities:
    raise ValueError(
      f"`anchor` must be the index of one of the {num_modalities} modalities, "
      f"got {anchor}."
    )
  return int(anchor) % num_modalities


def check_ids(
  ids: jax.Array | None, batch: int, name: str = "ids", axis: str = "batch"
) -> None:
  """Checks that `ids` is None or integers `[batch]`.

  Args:
    ids: what should be integers `[batch]`, or None.
    batch: the number of instances.
    name: the argument's name, for the message.
    axis: the name of its axis, for the message.

  Raises:
    TypeError: for a dtype that is not an integer one.
    ValueError: for another shape.
  """
  if ids is None:
    return
  if not jnp.issubdtype(ids.dtype, jnp.integer):
    raise TypeError(
      f"`{name}` must be integers [{axis}], got dtype {ids.dtype}; number the "
      "instances, for example with numpy.unique(names, return_inverse=True)."
    )
  if ids.shape != (batch,):
    raise ValueError(
      f"`{name}` must have shape [{axis}] = ({batch},), got {ids.shape}; give "
      "one integer per instance."
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
  check_scalar(temperature, name)
  if isinstance(temperature, numbers.Real) and not float(temperature) > 0:
    raise ValueError(
      f"`{name}` must be positive, got {temperature}; logits are divided by "
      "it, and usual values lie between 0.01 and 1."
    )


def check_scalar(value: Any, name: str) -> None:
  """Checks that a number or an array has no axes.

  Args:
    value: what should be a scalar.
    name: the argument's name, for the message.

  Raises:
    ValueError: if it is none.
  """
  if jnp.ndim(value):
    raise ValueError(
      f"`{name}` must be a scalar, got shape {jnp.shape(value)}; index or "
      "squeeze it first."
    )


def check_bounds(minimum: float, maximum: float) -> None:
  """Checks the bounds of a temperature.

  Args:
    minimum: what should be positive.
    maximum: what should be larger.

  Raises:
    ValueError: if they are not.
  """
  if not 0 < minimum < maximum:
    raise ValueError(
      "`minimum` and `maximum` must be positive temperatures in that order, "
      f"got {minimum} and {maximum}."
    )


def check_sample_weights(weights: jax.Array | None, batch: int) -> None:
  """Checks that `sample_weights` is None or real numbers `[batch]`.

  Args:
    weights: what should be numbers `[batch]`, or None.
    batch: the number of instances.

  Raises:
    TypeError: for complex numbers.
    ValueError: for another shape.
  """
  if weights is None:
    return
  if jnp.issubdtype(weights.dtype, jnp.complexfloating):
    raise TypeError(
      "`sample_weights` must be real numbers [batch], got dtype "
      f"{weights.dtype}."
    )
  if weights.shape != (batch,):
    raise ValueError(
      f"`sample_weights` must have shape [batch] = ({batch},), got "
      f"{weights.shape}; give one number per instance."
    )


def check_candidates(
  similarities: jax.Array,
  where: jax.Array | None,
  ids: jax.Array | None,
  candidate_ids: jax.Array | None,
) -> None:
  """Checks what hard negatives are drawn from.

  Args:
    similarities: what should be floating `[query, candidate]`.
    where: what should be bool `[candidate]`, or None.
    ids: what should be integers `[query]`, or None.
    candidate_ids: what should be integers `[candidate]`, or None.

  Raises:
    TypeError: for another dtype.
    ValueError: for another shape, or where it is unclear which candidate is
      the query's own.
  """
  _check_rank(similarities, "similarities", ("query", "candidate"))
  num_queries, num_candidates = similarities.shape
  _check_where(where, (num_candidates,), "[candidate]", of="candidate")
  check_ids(ids, num_queries, "ids", "query")
  check_ids(candidate_ids, num_candidates, "candidate_ids", "candidate")
  if candidate_ids is not None and ids is None:
    raise ValueError(
      "`candidate_ids` are compared with `ids` [query], got None; give both."
    )
  if candidate_ids is None and num_queries != num_candidates:
    raise ValueError(
      "`similarities` must be square, or `ids` and `candidate_ids` tell which "
      f"candidate is the query's own; got shape {similarities.shape} without "
      "them."
    )


def check_matches(
  logits: jax.Array, matched: jax.Array, where: jax.Array | None
) -> None:
  """Checks the logits of a matching head and what goes with them.

  Args:
    logits: what should be floating `[..., 2]`.
    matched: what should be bool `[...]`.
    where: what should be bool `[...]`, or None.

  Raises:
    TypeError: for another dtype.
    ValueError: for another shape.
  """
  if not logits.ndim or logits.shape[-1] != 2:
    raise ValueError(
      "`logits` must have shape [..., 2], of no and yes, got "
      f"{logits.shape}; a single logit s of yes is stack([zeros, s], -1)."
    )
  if not jnp.issubdtype(logits.dtype, jnp.floating):
    raise TypeError(
      "`logits` must be real floating-point numbers [..., 2], got dtype "
      f"{logits.dtype}; convert with .astype(jnp.float32)."
    )
  for mask, name in ((matched, "matched"), (where, "where")):
    _check_where(mask, logits.shape[:-1], "[...]", name, of="pair")


def check_choice(value: Any, name: str, choices: tuple[Any, ...]) -> None:
  """Checks that a value is one of the choices.

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
  _check_mesh(x, name)


def _check_mesh(x: jax.Array, name: str) -> None:
  sharding = jax.typeof(x).sharding
  kinds = dict(zip(sharding.mesh.axis_names, sharding.mesh.axis_types))
  split = jax.tree.leaves(tuple(sharding.spec))
  explicit = [axis for axis in split if kinds.get(axis) == AxisType.Explicit]
  if explicit:
    raise ValueError(
      f"`{name}` is split over the mesh axes {explicit}, which are Explicit, "
      "but the compiler must choose how products of all instances with all are "
      "split; make the mesh with axis_types=(jax.sharding.AxisType.Auto,), or "
      "wrap the loss in jax.sharding.auto_axes."
    )


def _check_where(
  where: jax.Array | None,
  shape: tuple[int, ...],
  wanted: str,
  name: str = "where",
  of: str = "embedding",
) -> None:
  if where is None:
    return
  if where.dtype != jnp.bool_:
    raise TypeError(
      f"`{name}` must be bool {wanted}, got dtype {where.dtype}; compare with "
      "zero, as in mask != 0."
    )
  if where.shape != shape:
    raise ValueError(
      f"`{name}` must have shape {wanted} = {shape}, got {where.shape}; give "
      f"one bool per {of}."
    )
