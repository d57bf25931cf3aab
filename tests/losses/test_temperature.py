"""A learned temperature stays in its bounds and can leave them again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import bounded_temperature

BOUNDS = {"minimum": 0.02, "maximum": 0.5}


def temperature(x):
  return bounded_temperature(x, **BOUNDS)


@pytest.mark.parametrize(
  "log_temperature,expected",
  [(np.log(0.1), 0.1), (-20.0, 0.02), (3.0, 0.5), (0, 0.5)],
)
def test_value_is_clipped(log_temperature, expected):
  np.testing.assert_allclose(temperature(log_temperature), expected, rtol=1e-6)


def test_gradient_inside_is_that_of_the_exponential():
  x = jnp.log(0.1)
  np.testing.assert_allclose(jax.grad(temperature)(x), 0.1, rtol=1e-6)


@pytest.mark.parametrize("outside", [-6.0, 1.0])
def test_gradient_outside_never_leads_further_out(outside):
  inwards = 1.0 if outside > 0 else -1.0  # descent on it moves back

  def slope(sign):
    return jax.grad(lambda x: sign * temperature(x))(outside)

  assert slope(-inwards) == 0
  assert slope(inwards) * inwards > 0


@pytest.mark.parametrize("start", [-8.0, 2.0])
def test_descent_finds_back_from_beyond_a_bound(start):
  def loss(x):
    return (jnp.log(temperature(x)) - jnp.log(0.1)) ** 2

  step = jax.jit(lambda x: x - 0.1 * jax.grad(loss)(x))
  x = jnp.float32(start)
  for _ in range(200):
    x = step(x)
  np.testing.assert_allclose(temperature(x), 0.1, rtol=1e-3)


def test_dtype_follows_the_parameter():
  assert temperature(jnp.float32(-2)).dtype == jnp.float32
  with jax.enable_x64(True):
    assert temperature(jnp.float64(-2)).dtype == jnp.float64
