"""Volume and area against determinants of Gram matrices, pair by pair."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_vjp

from pmrl_jax.losses import area_contrastive_loss, volume_contrastive_loss

BATCH, DIM = 7, 9
IDS = np.array([0, 1, 2, 0, 3, 1, 4], np.int32)
ALL_DIFFER = np.arange(BATCH, dtype=np.int32)


@functools.cache
def compiled(loss, **options):
  def losses(x, where, ids, temperature):
    return loss(x, where=where, ids=ids, temperature=temperature, **options)

  def value_and_pullback(x, where, ids, temperature, cotangent):
    value, pullback = jax.vjp(
      lambda x, temperature: losses(x, where, ids, temperature), x, temperature
    )
    return value, pullback(cotangent)

  return jax.jit(value_and_pullback)


def run(
  loss,
  x,
  where=None,
  ids=ALL_DIFFER,
  temperature=0.1,
  cotangent=None,
  **options,
):
  """Losses, and gradients of their sum by embeddings and temperature."""
  where = np.ones(x.shape[:2], bool) if where is None else where
  cotangent = np.ones(len(x), x.dtype) if cotangent is None else cotangent
  options = {"anchor": 0, "positives": "own", **options}
  return jax.device_get(
    compiled(loss, **options)(
      x, where, ids, np.asarray(temperature, x.dtype), cotangent
    )
  )


volume, area = volume_contrastive_loss, area_contrastive_loss


def gram_volume(vectors):
  return np.sqrt(max(np.linalg.det(vectors @ vectors.T), 0))


def heron(corners):
  a, b, c = (np.linalg.norm(corners[n] - corners[n - 1]) for n in range(3))
  s = (a + b + c) / 2
  return np.sqrt(s * (s - a) * (s - b) * (s - c))


def measure(loss, z, where, anchor, i, j):
  """Of the anchor of instance i with the media of instance j."""
  figure = np.concatenate([z[i, [anchor]], np.delete(z[j], anchor, 0)])
  if loss is area:
    return heron(figure)
  return gram_volume(figure[np.r_[True, np.delete(where[j], anchor)]])


def expected(
  oracle,
  loss,
  x,
  where,
  ids,
  *,
  anchor,
  positives,
  label_smoothing=0.0,
  temperature=0.1,
):
  z = oracle.unit(np.where(where[..., None], x, 0))
  media = np.delete(where, anchor, 1)
  takes_part = where[:, anchor] & media.any(1)
  if loss is area:
    takes_part = where.all(1)
  losses, others = np.zeros(len(x)), np.flatnonzero(takes_part)
  logits = np.full((len(x), len(x)), np.nan)
  for i, j in itertools.product(others, others):
    logits[i, j] = -measure(loss, z, where, anchor, i, j) / temperature
  for i in others:
    alike = [j for j in others if ids[j] == ids[i] and j != i]
    negatives = [j for j in others if ids[j] != ids[i]]
    if positives == "own":
      alike = []
    ways = [
      oracle.cross_entropy(way[i], way[alike], way[negatives], label_smoothing)
      for way in (logits[i], logits[:, i])
    ]
    losses[i] = np.mean(ways)
  return losses


@pytest.mark.parametrize(
  "loss,num_modalities,anchor,positives,smoothing",
  [
    (volume, 2, 0, "own", 0.0),
    (volume, 3, 0, "own", 0.0),
    (volume, 4, -2, "ids", 0.2),
    (area, 3, 0, "own", 0.0),
    (area, 3, 2, "ids", 0.2),
  ],
)
def test_losses_equal_the_oracle(
  rng, x64, oracle, loss, num_modalities, anchor, positives, smoothing
):
  x = rng.normal(size=(BATCH, num_modalities, DIM))
  options = {"anchor": anchor, "positives": positives}
  if smoothing:
    options["label_smoothing"] = smoothing
  for share in (1.0, 0.8):
    where = rng.random(x.shape[:2]) < share
    actual, _ = run(loss, x, where, IDS, **options)
    np.testing.assert_allclose(
      actual,
      expected(oracle, loss, x, where, IDS, **options),
      rtol=1e-9,
      atol=1e-12,
    )


@pytest.mark.parametrize("loss", [volume, area])
def test_gradients_pass_check_vjp(rng, x64, loss):
  x = rng.normal(size=(BATCH, 3, DIM))
  where = np.ones((BATCH, 3), bool)
  where[2, 1] = where[5, 0] = False

  def losses(x, temperature, cotangent=None):
    return run(loss, x, where, IDS, temperature, cotangent)

  check_vjp(
    lambda *args: losses(*args)[0],
    lambda *args: (losses(*args)[0], lambda ct: losses(*args, ct)[1]),
    (x, np.float64(0.3)),
  )


def test_float32_keeps_the_volumes_of_almost_equal_modalities(rng, oracle):
  """Eight modalities: polynomials of their products would lose all digits."""
  x = 1 + 0.3 * rng.normal(size=(BATCH, 8, DIM))
  where = np.ones((BATCH, 8), bool)
  z = oracle.unit(x)
  assert max(measure(volume, z, where, 0, i, i) for i in range(BATCH)) < 1e-3
  actual, _ = run(volume, x.astype(np.float32), where, IDS, 1e-4)
  wanted = expected(
    oracle, volume, x, where, IDS, anchor=0, positives="own", temperature=1e-4
  )
  np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-4)


def test_volume_of_two_modalities_is_the_sine(rng, x64, oracle):
  x = rng.normal(size=(BATCH, 2, DIM))
  a, b = oracle.unit(x).transpose(1, 0, 2)
  logits = -np.sqrt(1 - (a @ b.T) ** 2) / 0.1
  row, column = (
    np.log(np.exp(matrix - np.diag(logits)[:, None]).sum(1))
    for matrix in (logits, logits.T)
  )
  np.testing.assert_allclose(run(volume, x)[0], (row + column) / 2, rtol=1e-10)


@pytest.mark.parametrize("loss", [volume, area])
def test_length_counts_only_without_normalisation(rng, x64, loss):
  x = rng.normal(size=(BATCH, 3, DIM))
  np.testing.assert_allclose(run(loss, 7 * x)[0], run(loss, x)[0], rtol=1e-10)
  scaled, _ = run(loss, 3 * x, normalize=False)
  growth = 3 ** (3 if loss is volume else 2)
  plain, _ = run(loss, x, temperature=0.1 / growth, normalize=False)
  np.testing.assert_allclose(scaled, plain, rtol=1e-9)


@pytest.mark.parametrize("loss", [volume, area])
def test_order_of_media_and_rotations_do_not_matter(rng, x64, loss):
  x = rng.normal(size=(BATCH, 3, DIM))
  where = rng.random((BATCH, 3)) < 0.9
  rotation, _ = np.linalg.qr(rng.normal(size=(DIM, DIM)))
  plain = run(loss, x, where)[0]
  for other in (run(loss, x[:, [0, 2, 1]], where[:, [0, 2, 1]])[0],
                run(loss, x @ rotation, where)[0]):  # fmt: skip
    np.testing.assert_allclose(other, plain, rtol=1e-9)


def test_volume_is_blind_to_signs(rng, x64):
  x = rng.normal(size=(BATCH, 3, DIM))
  np.testing.assert_allclose(
    run(volume, x * np.array([[1], [-1], [1]]))[0], run(volume, x)[0], rtol=1e-9
  )


@pytest.mark.parametrize("loss,size", [(volume, 4), (area, 3)])
def test_gradients_are_finite_at_degenerate_points(degenerate, loss, size):
  generic = np.random.default_rng(3).normal(size=(4, size, 8))
  for name, x in degenerate.items():
    # An instance, its copy, one of the same anchor, and generic ones.
    points = [x[:size], x[:size], x[[0, 0, 1, 2][:size]], *generic]
    x = np.pad(points, [(0, 0), (0, 0), (0, DIM - 8)]).astype(np.float32)
    for ids in (ALL_DIFFER, np.zeros(BATCH, np.int32)):
      value, (gradient, _) = run(loss, x, ids=ids)
      assert np.isfinite(value).all(), name
      # A height or an edge changes by at most the change of a corner.
      assert np.abs(gradient).max() < 4 * BATCH / 0.1, name


@pytest.mark.parametrize("loss,size", [(volume, 4), (area, 3)])
def test_gradient_at_zero_volume_is_zero(rng, loss, size):
  one = rng.normal(size=DIM)
  x = np.tile(one, (BATCH, size, 1)).astype(np.float32)
  # Two bases of equal media: all volumes are zero, whatever the anchor is.
  x[1:, 0] = rng.normal(size=(BATCH - 1, DIM))
  value, (gradient, _) = run(loss, x)
  np.testing.assert_allclose(value, np.log(BATCH), rtol=1e-6)
  chex.assert_trees_all_equal(gradient, np.zeros_like(gradient))


def test_more_modalities_than_dimensions():
  with pytest.raises(ValueError, match=r"as many dim.* got shape \(4, 4, 3\)"):
    volume(jnp.ones((4, 4, 3)), temperature=0.1)


@pytest.mark.parametrize("num_modalities", [2, 4])
def test_area_needs_three_modalities(num_modalities):
  with pytest.raises(ValueError, match="exactly three modalities"):
    area(jnp.ones((4, num_modalities, 5)), temperature=0.1)


@pytest.mark.parametrize("loss", [volume, area])
def test_anchors_that_do_not_exist(loss):
  with pytest.raises(ValueError, match="`anchor` .* 3 modalities, got 3"):
    loss(jnp.ones((4, 3, 5)), temperature=0.1, anchor=3)
