"""Multilinear products against an oracle that lists every tuple."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

from pmrl_jax.losses import (
  pairwise_contrastive_loss,
  product_contrastive_loss,
)

BATCH, DIM = 5, 6
IDS = np.array([0, 1, 0, 2, 3], np.int32)
ALL_DIFFER = np.arange(BATCH, dtype=np.int32)
KEY = jax.random.key(4)


@functools.cache
def compiled(negatives, label_smoothing):
  def losses(x, temperature, where, ids, key):
    return product_contrastive_loss(
      x,
      temperature=temperature,
      negatives=negatives,
      key=key,
      where=where,
      ids=ids,
      label_smoothing=label_smoothing,
    )

  def value_and_pullback(x, temperature, where, ids, key, cotangent):
    value, pullback = jax.vjp(
      lambda *args: losses(*args, where, ids, key), x, temperature
    )
    return value, pullback(cotangent)

  return jax.jit(value_and_pullback)


def run(
  x,
  negatives,
  where=None,
  ids=ALL_DIFFER,
  *,
  key=KEY,
  smoothing=0.0,
  temperature=0.3,
  cotangent=None,
):
  """Losses, and gradients of their sum by embeddings and temperature."""
  where = np.ones(x.shape[:2], bool) if where is None else where
  cotangent = np.ones(len(x)) if cotangent is None else cotangent
  return jax.device_get(
    compiled(negatives, smoothing)(x, temperature, where, ids, key, cotangent)
  )


def tuples(negatives, batch, num_modalities, anchor):
  """Members of the other modalities, in their order."""
  if negatives == "all":
    return list(itertools.product(range(batch), repeat=num_modalities - 1))
  index = [
    jax.random.permutation(key, batch)
    for key in jax.random.split(KEY, num_modalities)
  ]
  return np.delete(np.array(index), anchor, 0).T


def expected(oracle, x, negatives, where, ids, smoothing):
  batch, num_modalities, dim = x.shape
  z = oracle.unit(np.where(where[..., None], x, 0))
  scale = dim ** (num_modalities / 2 - 1) / 0.3
  losses = np.zeros(batch)
  for i, m in itertools.product(
    np.flatnonzero(where.all(1)), range(x.shape[1])
  ):
    others = np.delete(np.arange(num_modalities), m)
    logits = [
      scale * np.sum(z[i, m] * np.prod(z[list(members), others], axis=0))
      for members in tuples(negatives, batch, num_modalities, m)
      if where[list(members)].all()
      and not all(ids[member] == ids[i] for member in members)
    ]
    own = scale * np.sum(np.prod(z[i], axis=0))
    losses[i] += oracle.cross_entropy(own, [], logits, smoothing)
  return losses / num_modalities


@pytest.mark.parametrize(
  "negatives,num_modalities,smoothing",
  [
    ("shuffled", 3, 0.2),
    ("shuffled", 4, 0.0),
    ("shuffled", 8, 0.0),
    ("all", 3, 0.2),
    ("all", 4, 0.0),
  ],
)
def test_losses_equal_the_oracle(
  rng, x64, oracle, negatives, num_modalities, smoothing
):
  x = rng.normal(size=(BATCH, num_modalities, DIM))
  where = np.ones(x.shape[:2], bool)
  for ids in (ALL_DIFFER, IDS):
    np.testing.assert_allclose(
      run(x, negatives, where, ids, smoothing=smoothing)[0],
      expected(oracle, x, negatives, where, ids, smoothing),
      rtol=1e-10,
    )
    where[1, 2] = False


@pytest.mark.parametrize("negatives", ["shuffled", "all"])
def test_two_modalities_are_the_pairwise_loss(rng, x64, negatives):
  x, where = rng.normal(size=(BATCH, 2, DIM)), np.ones((BATCH, 2), bool)
  where[3, 0] = False
  np.testing.assert_allclose(
    run(x, negatives, where, IDS)[0],
    pairwise_contrastive_loss(x, temperature=0.3, where=where, ids=IDS),
    rtol=1e-10,
  )


@pytest.mark.parametrize("negatives", ["shuffled", "all"])
def test_gradients_pass_check_vjp(rng, x64, negatives):
  def losses(x, temperature, cotangent=None):
    return run(
      x,
      negatives,
      ids=IDS,
      smoothing=0.2,
      temperature=temperature,
      cotangent=cotangent,
    )

  check_vjp(
    lambda *args: losses(*args)[0],
    lambda *args: (losses(*args)[0], lambda ct: losses(*args, ct)[1]),
    (rng.normal(size=(BATCH, 3, DIM)), np.float64(0.3)),
  )


def test_all_tuples_are_invariant_to_orders(rng, x64):
  x = rng.normal(size=(BATCH, 3, DIM))
  plain, _ = run(x, "all", ids=IDS, smoothing=0.2)
  batch, modality = rng.permutation(BATCH), rng.permutation(3)
  shuffled, _ = run(x[batch], "all", ids=IDS[batch], smoothing=0.2)
  np.testing.assert_allclose(shuffled, plain[batch], rtol=1e-10)
  turned, _ = run(x[:, modality], "all", ids=IDS, smoothing=0.2)
  np.testing.assert_allclose(turned, plain, rtol=1e-10)


def test_another_key_gives_other_tuples(rng, x64):
  x = rng.normal(size=(BATCH, 4, DIM))
  draws = [run(x, "shuffled", key=jax.random.key(n))[0] for n in range(3)]
  assert not np.allclose(draws[0], draws[1]) and (draws[0] > 0).all()
  np.testing.assert_array_equal(
    draws[2], run(x, "shuffled", key=jax.random.key(2))[0]
  )


def test_flat_vectors_have_a_product_of_one(x64):
  """As a cosine: a temperature means the same for any number of modalities."""
  signs = np.sign(np.random.default_rng(0).normal(size=DIM))
  x = np.ones((BATCH, 4, 1)) * signs
  x[0] *= -1
  # Of the 124 tuples that are not all its own, an instance finds those with
  # an odd number of members of the first to be of the other sign.
  flipped = sum(
    np.sum(np.array(members) == 0) % 2
    for members in itertools.product(range(BATCH), repeat=3)
  )
  other = np.exp(-2 / 0.3)
  wanted = np.log1p(124 - flipped + flipped * other)
  np.testing.assert_allclose(run(x, "all")[0][1:], wanted, rtol=1e-10)


def test_a_key_is_needed_to_shuffle():
  with pytest.raises(ValueError, match="needs a random `key`, got None"):
    product_contrastive_loss(jnp.ones((4, 3, 5)), temperature=0.1)


def test_too_many_tuples():
  def loss(batch, size, **options):
    return jax.eval_shape(
      functools.partial(
        product_contrastive_loss,
        temperature=0.1,
        negatives="all",
        **options,
      ),
      jax.ShapeDtypeStruct((batch, size, 5), jnp.float32),
    )

  with pytest.raises(ValueError, match=r"1024\^2 = 1048576 .* `block_size`"):
    loss(1024, 3)
  assert loss(1024, 3, block_size=512).shape == (1024,)
  with pytest.raises(ValueError, match=r"4096\^3 = .* negatives='shuffled'"):
    loss(4096, 4, block_size=512)


def test_unknown_negatives():
  with pytest.raises(ValueError, match="'shuffled', 'all'; got 'some'"):
    product_contrastive_loss(
      jnp.ones((4, 3, 5)), temperature=0.1, negatives="some"
    )
