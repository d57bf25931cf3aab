"""Encoders of tokens as encoders of one vector."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import encoders
from pmrl_jax.encoders import PooledEncoder

TEXT = encoders.Bert(
  vocabulary_size=11, width=8, depth=1, num_heads=2, mlp_width=8, max_length=9
)


class Tokens(nn.Module):
  """Every row of the input is a token."""

  @nn.compact
  def __call__(self, inputs, *, train):
    return inputs


def pool(inputs, **fields):
  module = PooledEncoder(Tokens(), **fields)
  return module.apply({}, jnp.asarray(inputs, jnp.float32), train=False)


def test_a_token_or_the_mean_stands_for_all():
  x = np.arange(24.0).reshape(2, 3, 4)
  np.testing.assert_array_equal(pool(x), x[:, 0])
  np.testing.assert_array_equal(pool(x, pooling="mean"), x.mean(axis=1))


def test_clips_are_averaged():
  x = np.arange(48.0).reshape(2, 2, 3, 4)
  vectors = pool(x, pooling="mean", has_clips=True)
  np.testing.assert_allclose(vectors, x.mean(axis=(1, 2)))


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_padding_of_a_text_makes_no_difference(pooling):
  module = PooledEncoder(TEXT, pooling=pooling)
  ids = jnp.array([[2, 5, 3, 0, 0], [0, 0, 0, 0, 0]])
  params = jax.jit(functools.partial(module.init, train=False))(
    jax.random.key(0), ids
  )
  longer = module.apply(params, ids, train=False)
  shorter = module.apply(params, ids[:, :3], train=False)
  np.testing.assert_allclose(longer, shorter, atol=1e-5)
  assert np.isfinite(longer).all() and longer.shape == (2, 8)


def test_mistakes_are_explained():
  with pytest.raises(ValueError, match="'class' or 'mean', got 'last'"):
    pool(np.ones((2, 3, 4)), pooling="last")
  with pytest.raises(ValueError, match=r"\[batch, clip, ...\]"):
    pool(np.ones((2, 3)), has_clips=True)
