"""Dropout by half the random bits."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders.dropout import Dropout


def dropped(x, rate, key=0):
  layer = Dropout(rate, deterministic=False)
  return layer.apply({}, x, rngs={"dropout": jax.random.key(key)})


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.75])
@pytest.mark.parametrize("width", [400, 401])
def test_the_rate_is_that_of_every_place(rate, width):
  """Both halves of a word, with a place that is left over or without."""
  y = np.asarray(dropped(jnp.ones((1000, width)), rate))
  for half in (y[:, : (width + 1) // 2], y[:, (width + 1) // 2 :]):
    deviation = (rate * (1 - rate) / half.size) ** 0.5
    assert abs((half == 0).mean() - rate) < 5 * deviation
  deviation = (rate / (1 - rate) / y.size) ** 0.5
  assert abs(y.mean() - 1) < 5 * deviation
  # Of a column, and of neighbours in rows and words, one tells nothing of
  # the other.
  zero = (y == 0) - rate
  half = (width + 1) // 2
  for a, b in (
    (zero[:, 1:], zero[:, :-1]),
    (zero[1:], zero[:-1]),
    (zero[:, : width - half], zero[:, half:]),
  ):
    assert abs((a * b).mean()) < 5 * rate * (1 - rate) / a.size**0.5
  columns = (y == 0).mean(0)
  assert abs(columns - rate).max() < 6 * (rate * (1 - rate) / 1000) ** 0.5


def test_what_is_kept_is_divided_by_the_share_that_is_kept():
  y = dropped(jnp.full((4, 64), 3.0), 0.25)
  assert set(np.unique(y)) == {0.0, 4.0}
  # A rate that 16 bits cannot hold: the share of them counts.
  kept = np.unique(dropped(jnp.ones((4, 64)), 0.1))[1]
  np.testing.assert_allclose(kept, 2**16 / round(0.9 * 2**16), rtol=1e-7)
  np.testing.assert_allclose(kept, 1 / 0.9, rtol=1e-5)


@pytest.mark.parametrize("rate", [1e-9, 1 - 1e-9])
def test_rates_next_to_zero_and_one_are_finite(rate):
  y = np.asarray(dropped(jnp.ones((8, 1001)), rate))
  assert np.isfinite(y).all()
  assert (y == 0).mean() == pytest.approx(rate, abs=0.01)


def test_it_is_off_where_nothing_is_dropped():
  x = jnp.arange(6.0)
  assert Dropout(0.5, deterministic=True).apply({}, x) is x
  assert Dropout(0.0, deterministic=False).apply({}, x) is x


def test_dtype_gradient_and_key():
  x = jnp.ones((3, 5), jnp.bfloat16)
  y, backward = jax.vjp(functools.partial(dropped, rate=0.5), x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(backward(x)[0], y)
  assert (dropped(x, 0.5, key=1) != y).any()
  with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
    Dropout(0.5, deterministic=False).apply({}, x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0])
def test_an_impossible_rate_is_refused(rate):
  with pytest.raises(ValueError, match="at least 0 and below 1, got"):
    dropped(jnp.ones(3), rate)
