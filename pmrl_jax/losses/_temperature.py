"""Temperatures that are learned."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import check_bounds, check_scalar


def bounded_temperature(
  log_temperature: ArrayLike,
  *,
  minimum: float = 0.01,
  maximum: float = 1.0,
) -> jax.Array:
  """Returns the temperature of a learned logarithm, within bounds.

      tau = exp(clip(log_tau, log(minimum), log(maximum)))

  A plain clip would trap a parameter beyond a bound, where its gradient is
  zero, and one without a gradient rule would let it drift away. Here the
  gradient beyond a bound is zero only where it leads further out, so that
  descent always finds back. CLIP clips the parameter after each update
  instead, which takes a step of its own in the training loop.

  Args:
    log_temperature: a scalar, the parameter; start it at log(0.1), say.
    minimum: smallest temperature; CLIP's is 0.01.
    maximum: largest temperature.

  Returns:
    The temperature `[]`, to be passed to any loss; reverse mode only.

  Raises:
    ValueError: if the bounds are not positive and in order, or the parameter
      is no scalar.

  Reference:
    Radford et al., Learning Transferable Visual Models From Natural Language
    Supervision, arXiv 2103.00020, section 2.5.

  >>> import jax, jax.numpy as jnp
  >>> from pmrl_jax.losses import bounded_temperature
  >>> round(float(bounded_temperature(jnp.log(0.07))), 4)
  0.07
  >>> round(float(bounded_temperature(-9.0, minimum=0.02)), 4)
  0.02
  """
  check_bounds(minimum, maximum)
  check_scalar(log_temperature, "log_temperature")
  low, high = jnp.log(minimum), jnp.log(maximum)
  x = jnp.asarray(log_temperature, jnp.result_type(log_temperature, float))
  return jnp.exp(_clip(x, low.astype(x.dtype), high.astype(x.dtype)))


@jax.custom_vjp
def _clip(x: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
  return jnp.clip(x, low, high)


def _clip_forward(x, low, high):
  return _clip(x, low, high), (x, low, high)


def _clip_backward(saved, cotangent):
  x, low, high = saved
  # Descent moves against the gradient: a negative one raises x.
  leads_out = ((x > high) & (cotangent < 0)) | ((x < low) & (cotangent > 0))
  return jnp.where(leads_out, 0, cotangent), None, None


_clip.defvjp(_clip_forward, _clip_backward)
