"""AdamW with warm-up and decay of the learning rate, by groups of parameters.

Groups are told by the paths of parameters, such as
"encoders_text/blocks/mlp_norm/scale", and regular expressions that are
searched for in them.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import optax

# What the published code does, for the published model. Its warm-up is a
# tenth of the steps.
PUBLISHED_OPTIMIZER: Mapping[str, Any] = MappingProxyType(
  {
    "schedule": "linear",
    "variant": "published",
    "weight_decay": 0.01,
    "clip_norm": None,
    "b1": 0.9,
    "b2": 0.98,
    "eps": 1e-6,
    "learning_rates": (("^encoders_vision/", 5e-7),),
    # Scales of LayerNorms outside the text encoder do decay, by an oversight
    # of the published rules: only its LayerNorms are named so.
    "not_decayed": ("bias", "^encoders_text/.*norm/scale$"),
    # The temperature and the fused heads choose hard negatives, outside of the
    # gradient; words are predicted in captioning only, and the head of the
    # vision tower is never used.
    "without_gradient": (
      "^(temperature$|fused_heads_)",
      "^encoders_(text/predictions|vision/head)/",
    ),
  }
)

_WITHOUT_GRADIENT = "without gradient"


def make_optimizer(
  *,
  learning_rate: float,
  steps: int,
  warmup_steps: float = 0,
  schedule: str = "cosine",
  variant: str = "optax",
  weight_decay: float = 0.0,
  clip_norm: float | None = 1.0,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  learning_rates: Sequence[tuple[str, float]] = (),
  not_decayed: Sequence[str] | None = None,
  without_gradient: Sequence[str] = (),
) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Builds the optimizer and its learning-rate schedule.

  Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization,
  arXiv 1711.05101.

  Args:
    learning_rate: Peak learning rate, reached after the warm-up.
    steps: Steps of the whole run; the rate ends at 0 there.
    warmup_steps: Steps of the linear warm-up from 0.
    schedule: How the rate falls after the warm-up: "cosine", or "linear" as
      published, where the first update already has the rate of step 1 (and
      the last one that of step `steps`, 0).
    variant: "optax", or "published": epsilon is then beside the root of the
      moment before that is corrected for its start, and what decays is the
      updated parameter.
    weight_decay: Decoupled weight decay.
    clip_norm: Largest global norm of the gradient; None does not clip.
    b1: Decay of the first moment.
    b2: Decay of the second moment.
    eps: Added to the root of the second moment.
    learning_rates: `(pattern, peak)` of parameters with a peak of their own;
      the first pattern that fits counts.
    not_decayed: Patterns of parameters that do not decay. By default only
      matrices do: no biases and no scales.
    without_gradient: Patterns of parameters that the loss does not depend on.
      They keep their values, and take no memory for moments.

  Returns:
    The gradient transformation and the schedule (step -> learning rate).

  Raises:
    ValueError: If a number is out of range or a name unknown; at the
      transformation's `init`, if a pattern fits no parameter.
  """
  _check(locals())
  rate = _SCHEDULES[schedule](learning_rate, steps, warmup_steps)
  make = functools.partial(
    _VARIANTS[variant],
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    mask=_is_matrix
    if not_decayed is None
    else functools.partial(_fits_none, patterns=not_decayed),
  )
  peaks = dict(learning_rates)
  optimizer = make(rate)
  if peaks or without_gradient or not_decayed:
    groups = {
      pattern: make(_scaled(rate, peak / learning_rate))
      for pattern, peak in peaks.items()
    }
    labels = functools.partial(
      _labels,
      without_gradient=without_gradient,
      groups=tuple(peaks),
      others=tuple(not_decayed or ()),
    )
    optimizer = optax.partition(
      {"": optimizer, **groups, _WITHOUT_GRADIENT: optax.set_to_zero()}, labels
    )
  if clip_norm is not None:
    optimizer = optax.chain(optax.clip_by_global_norm(clip_norm), optimizer)
  return optimizer, rate


def _cosine(
  learning_rate: float, steps: int, warmup_steps: float
) -> optax.Schedule:
  return optax.warmup_cosine_decay_schedule(
    init_value=0.0 if warmup_steps else learning_rate,
    peak_value=learning_rate,
    warmup_steps=warmup_steps,
    decay_steps=steps,
  )


def _linear(
  learning_rate: float, steps: int, warmup_steps: float
) -> optax.Schedule:
  falling = optax.linear_schedule(learning_rate, 0.0, steps - warmup_steps)
  rising = optax.linear_schedule(0.0, learning_rate, warmup_steps)
  schedule = optax.join_schedules([rising, falling], [warmup_steps])
  return lambda step: schedule(step + 1)


_SCHEDULES = {"cosine": _cosine, "linear": _linear}


def _scaled(schedule: optax.Schedule, factor: float) -> optax.Schedule:
  return lambda step: factor * schedule(step)


def _published_adamw(
  schedule: optax.Schedule,
  *,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float,
  mask: Any,
) -> optax.GradientTransformation:
  """Adam of the published code: `p1 = p - rate u`, `p2 = p1 - rate decay p1`.

  In one update that is `-rate ((1 - rate decay) u + decay p)`. The other
  epsilon equals Adam's, divided by the correction of the second moment.
  """
  adam = optax.inject_hyperparams(
    optax.scale_by_adam,
    static_args=("b1", "b2", "eps_root", "mu_dtype", "nesterov"),
  )
  return optax.chain(
    adam(b1=b1, b2=b2, eps=lambda step: eps / jnp.sqrt(1 - b2 ** (step + 1))),
    optax.masked(
      optax.scale_by_schedule(lambda step: 1 - weight_decay * schedule(step)),
      mask,
    ),
    optax.add_decayed_weights(weight_decay, mask),
    optax.scale_by_learning_rate(schedule),
  )


_VARIANTS = {"optax": optax.adamw, "published": _published_adamw}


def _is_matrix(params: Any) -> Any:
  """Marks what weight decay shrinks: matrices, no biases and no scales.

  The name counts as well, since a stack of equal blocks has the biases of all
  layers in one matrix.
  """

  def decays(path: Any, parameter: jax.Array) -> bool:
    kind = _name(path).rpartition("/")[2]
    return parameter.ndim > 1 and kind not in ("bias", "scale")

  return jax.tree_util.tree_map_with_path(decays, params)


def _fits_none(params: Any, *, patterns: Sequence[str]) -> Any:
  """Marks the parameters whose paths fit none of the patterns."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: _first_fit(_name(path), patterns) is None, params
  )


def _labels(
  params: Any,
  *,
  without_gradient: Sequence[str],
  groups: Sequence[str],
  others: Sequence[str],
) -> Any:
  """Labels every parameter with its group, and checks all patterns."""
  names = [_name(path) for path, _ in jax.tree.leaves_with_path(params)]
  for pattern in (*without_gradient, *groups, *others):
    if not any(re.search(pattern, name) for name in names):
      raise ValueError(
        f"every pattern has to fit a parameter, got {pattern!r} and parameters "
        f"like {names[:3]}; correct the pattern or leave it out"
      )

  def label(path: Any, _: Any) -> str:
    name = _name(path)
    if _first_fit(name, without_gradient) is not None:
      return _WITHOUT_GRADIENT
    return _first_fit(name, groups) or ""

  return jax.tree_util.tree_map_with_path(label, params)


def _name(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _first_fit(name: str, patterns: Sequence[str]) -> str | None:
  return next((p for p in patterns if re.search(p, name)), None)


def _check(options: Mapping[str, Any]) -> None:
  """Checks the options of `make_optimizer`."""
  for name, known in (("schedule", _SCHEDULES), ("variant", _VARIANTS)):
    if options[name] not in known:
      raise ValueError(
        f"{name} must be one of {sorted(known)}, got {options[name]!r}"
      )
  positive = {
    name: options[name] for name in ("learning_rate", "steps", "clip_norm")
  }
  positive |= {
    f"the learning rate of {pattern!r}": rate
    for pattern, rate in options["learning_rates"]
  }
  for name, value in positive.items():
    if value is not None and value <= 0:
      raise ValueError(f"{name} must be positive, got {value}")
  weight_decay = options["weight_decay"]
  if weight_decay < 0:
    raise ValueError(f"weight_decay must not be negative, got {weight_decay}")
  steps, warmup_steps = options["steps"], options["warmup_steps"]
  if not 0 <= warmup_steps < steps:
    raise ValueError(
      f"warmup_steps must be at least 0 and less than the {steps} steps of the "
      f"run, got {warmup_steps}"
    )
