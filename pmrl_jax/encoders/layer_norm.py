"""The LayerNorm of the large encoders."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class LayerNorm(nn.Module):
  """Normalises the last axis to mean 0 and variance 1, then scales and shifts.

  Values and parameters are those of `flax.linen.LayerNorm` without its fast
  variance, which loses digits where the mean is large. The gradient is written
  by hand: of the input, the backward pass keeps what came and two numbers for
  each row, where differentiation would keep two arrays of its size in float32,
  and pass over them more often. Derivatives are in reverse mode, any number of
  times over.

  Reference: Ba et al., Layer Normalization, arXiv 1607.06450.

  Attributes:
    epsilon: Added to the variance.
    dtype: Of the result; the computation is in float32 or better.
    param_dtype: Parameter dtype.
  """

  epsilon: float
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[..., width]` to the same shape."""
    width, start = (x.shape[-1],), nn.initializers
    scale = self.param("scale", start.ones, width, self.param_dtype)
    bias = self.param("bias", start.zeros, width, self.param_dtype)
    return _layer_norm(self.epsilon, jnp.dtype(self.dtype), x, scale, bias)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _layer_norm(
  epsilon: float,
  dtype: jnp.dtype,
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> jax.Array:
  return _forward(epsilon, dtype, x, scale, bias)[0]


# The input, mean and reciprocal of the standard deviation of its rows, scale.
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _forward(
  epsilon: float,
  dtype: jnp.dtype,
  x: jax.Array,
  scale: jax.Array,
  bias: jax.Array,
) -> tuple[jax.Array, _Residuals]:
  wide = _wide(x)
  mean = wide.mean(-1, keepdims=True)
  centred = wide - mean
  variance = jnp.square(centred).mean(-1, keepdims=True)
  reciprocal = jax.lax.rsqrt(variance + epsilon)
  y = centred * reciprocal * _of_rows(scale, x) + _of_rows(bias, x)
  return y.astype(dtype), (x, mean, reciprocal, scale)


def _backward(
  epsilon: float, dtype: jnp.dtype, residuals: _Residuals, y_bar: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  del epsilon, dtype
  x, mean, reciprocal, scale = residuals
  y_bar = _wide(y_bar)
  normal = (_wide(x) - mean) * reciprocal
  normal_bar = y_bar * _of_rows(scale, x)
  # Neither the mean of a row nor its variance changes the result.
  x_bar = reciprocal * (
    normal_bar
    - normal_bar.mean(-1, keepdims=True)
    - normal * (normal_bar * normal).mean(-1, keepdims=True)
  )
  rows = tuple(range(x.ndim - 1))
  scale_bar, bias_bar = (y_bar * normal).sum(rows), y_bar.sum(rows)
  return (
    x_bar.astype(x.dtype),
    scale_bar.astype(scale.dtype),
    bias_bar.astype(scale.dtype),
  )


_layer_norm.defvjp(_forward, _backward)


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _of_rows(parameter: jax.Array, x: jax.Array) -> jax.Array:
  """A parameter with as many axes as `x`."""
  return jnp.expand_dims(parameter, range(x.ndim - 1))
