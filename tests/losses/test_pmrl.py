import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import (
  PUBLISHED,
  alignment_loss,
  pairwise_contrastive_loss,
  pmrl_loss,
)

# One shape throughout, so that every combination is compiled once per dtype.
SHAPE = (6, 4, 8)
WHERE = np.array(
  [
    [True, True, True, True],
    [True, False, True, True],
    [False, True, False, True],
    [False, False, True, False],
    [False, False, False, False],
    [True, True, True, False],
  ]
)
IDS = np.array([3, 1, 3, 2, 0, 1])
ORIENTATIONS = ("free", "lifted", "consensus")
CONTRASTS = ("directions", "modalities", "pairs")
DEFAULTS = {
  "orientation": "consensus",
  "contrast": "pairs",
  "solver": "svd",
}


def alike(rng):
  """Modalities of an instance with clearly positive cosines, and noise."""
  x = rng.normal(size=SHAPE)
  return (x[:, :1] + 0.4 * x).astype(np.float32)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_loss_and_gradient_equal_the_oracle(
  rng, x64, oracle, grad_of_pmrl, orientation, contrast
):
  x = rng.normal(size=SHAPE)
  kwargs = {"orientation": orientation, "contrast_kind": contrast}
  result, gradient = grad_of_pmrl(
    x, WHERE, IDS, orientation=orientation, contrast=contrast, solver="gram"
  )
  expected = oracle.pmrl(x, WHERE, IDS, **kwargs)
  np.testing.assert_allclose(result[:3], expected, rtol=1e-9)

  step = 1e-6
  for direction in rng.normal(size=(3, *SHAPE)):
    ahead = oracle.pmrl(x + step * direction, WHERE, IDS, **kwargs)[0]
    behind = oracle.pmrl(x - step * direction, WHERE, IDS, **kwargs)[0]
    slope = np.sum(np.asarray(gradient) * direction)
    np.testing.assert_allclose(
      slope, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-8
    )


def test_gradients_are_finite_at_degenerate_points(
  rng, degenerate, grad_of_pmrl, orientation, contrast, solver
):
  names, points = list(degenerate), list(degenerate.values())
  for i, name in enumerate(names):
    # All instances alike, and the point among generic instances.
    for x in (np.stack([points[i]] * 6), rng.normal(size=SHAPE)):
      x[0] = points[i]
      result, gradient = grad_of_pmrl(
        x.astype(np.float32),
        orientation=orientation,
        contrast=contrast,
        solver=solver,
      )
      assert np.isfinite(result.loss), name
      assert np.all(np.isfinite(gradient)), name


def test_content_of_an_absent_modality_never_matters(
  rng, grad_of_pmrl, orientation, contrast, solver
):
  options = {"orientation": orientation, "contrast": contrast, "solver": solver}
  x = rng.normal(size=SHAPE).astype(np.float32)
  expected = grad_of_pmrl(x, WHERE, IDS, **options)
  for content in (np.nan, np.inf):
    dirty = np.where(WHERE[..., None], x, np.float32(content))
    chex.assert_trees_all_equal(
      grad_of_pmrl(dirty, WHERE, IDS, **options), expected
    )
  assert np.all(np.asarray(expected[1])[~WHERE] == 0)


def test_solvers_agree(rng, grad_of_pmrl):
  x = alike(rng)
  for orientation, contrast in itertools.product(ORIENTATIONS, CONTRASTS):
    by_svd, by_gram = (
      grad_of_pmrl(
        x,
        WHERE,
        IDS,
        orientation=orientation,
        contrast=contrast,
        solver=solver,
      )
      for solver in ("svd", "gram")
    )
    chex.assert_trees_all_close(by_svd[0], by_gram[0], rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(by_svd[1], by_gram[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_loss_is_invariant_to_order_rotation_and_length(
  rng, x64, grad_of_pmrl, orientation, contrast
):
  options = {
    "orientation": orientation,
    "contrast": contrast,
    "solver": "gram",
  }
  # Opposed pairs are left out: their free direction has the first one's sign.
  x = alike(rng).astype(np.float64)
  expected = grad_of_pmrl(x, WHERE, IDS, **options)[0][:3]
  modalities, instances = rng.permutation(4), rng.permutation(6)
  rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
  lengths = np.exp(3 * rng.normal(size=(6, 4, 1)))
  for changed in (
    (x[:, modalities], WHERE[:, modalities], IDS),
    (x[instances], WHERE[instances], IDS[instances]),
    (x @ rotation, WHERE, IDS),
    (x * lengths, WHERE, IDS),
  ):
    actual = grad_of_pmrl(*changed, **options)[0][:3]
    chex.assert_trees_all_close(actual, expected, rtol=1e-9)


def test_an_absent_modality_is_a_removed_one(rng, grad_of_pmrl):
  x = rng.normal(size=SHAPE).astype(np.float32)
  where = np.broadcast_to([True, False, True, True], SHAPE[:2])
  masked, gradient = grad_of_pmrl(x, where, **DEFAULTS)
  removed, rest = grad_of_pmrl(x[:, [0, 2, 3]], **DEFAULTS)
  chex.assert_trees_all_close(masked[:3], removed[:3], rtol=1e-5)
  chex.assert_trees_all_close(gradient[:, [0, 2, 3]], rest, atol=1e-5)
  assert np.all(gradient[:, 1] == 0)


def test_same_ids_are_no_negatives(rng, grad_of_pmrl):
  x = rng.normal(size=SHAPE).astype(np.float32)
  for contrast in CONTRASTS:
    options = {**DEFAULTS, "contrast": contrast}
    result, _ = grad_of_pmrl(x, ids=np.full(6, 7), **options)
    assert result.instance == 0
    assert result.loss == result.alignment > 0


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_only_free_alignment_is_blind_to_signs(rng, x64, grad_of_pmrl, solver):
  x = rng.normal(size=SHAPE)
  x[:, 1:] = x[:, :1] + 0.3 * x[:, 1:]
  flipped = x * np.array([1, -1, 1, 1], np.float32)[:, None]
  for orientation in ORIENTATIONS:
    aligned, opposed = (
      grad_of_pmrl(
        each, orientation=orientation, contrast="directions", solver=solver
      )[0].alignment
      for each in (x, flipped)
    )
    if orientation == "free":
      np.testing.assert_allclose(opposed, aligned, rtol=1e-5)
    else:
      assert opposed > aligned + 0.1


@pytest.mark.parametrize("orientation", ["free", "consensus"])
def test_alignment_lies_between_its_bounds(rng, orientation):
  loss = jax.jit(
    lambda x, where, temperature: alignment_loss(
      x, where=where, temperature=temperature, orientation=orientation
    )
  )
  x = rng.normal(size=SHAPE).astype(np.float32)
  alike = np.broadcast_to(x[:, :1], x.shape)
  orthonormal = np.broadcast_to(np.eye(4, 8, dtype=np.float32), x.shape)
  for k, temperature in ((2, 0.5), (3, 0.05), (4, 1.0)):
    where = np.broadcast_to(np.arange(4) < k, SHAPE[:2])
    lowest = np.log1p((k - 1) * np.exp(-np.sqrt(k) / temperature))
    np.testing.assert_allclose(
      loss(alike, where, temperature), lowest, rtol=1e-4
    )
    np.testing.assert_allclose(
      loss(orthonormal, where, temperature), np.log(k), rtol=1e-5
    )
    assert np.all(loss(x, where, temperature) > lowest)


def test_alignment_of_fewer_than_two_modalities_is_zero(rng):
  few = WHERE.sum(axis=1) < 2

  @jax.jit
  def run(x):
    def total(x):
      loss = alignment_loss(x, temperature=0.1, where=WHERE)
      return jnp.sum(jnp.where(few, loss, 0)), loss

    return jax.value_and_grad(total, has_aux=True)(x)

  (_, loss), gradient = run(rng.normal(size=SHAPE).astype(np.float32))
  assert np.all(loss[few] == 0)
  assert np.all(loss[~few] > 0)
  assert np.all(gradient == 0)


@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("num_present", [0, 1])
def test_terms_that_no_instance_has_are_zero(
  rng, grad_of_pmrl, contrast, num_present
):
  x = rng.normal(size=SHAPE).astype(np.float32)
  where = np.broadcast_to(np.arange(4) < num_present, SHAPE[:2])
  result, gradient = grad_of_pmrl(
    x, where, **{**DEFAULTS, "contrast": contrast}
  )
  assert result.alignment == 0
  if contrast == "directions" and num_present:
    assert result.loss == 3 * result.instance > 0
  else:
    assert result.loss == 0
    assert np.all(gradient == 0)


def test_weight_and_temperatures_can_be_learned(rng):
  x = rng.normal(size=SHAPE).astype(np.float32)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def run(learned):
    alignment_temperature, instance_temperature, weight = learned
    result = pmrl_loss(
      x,
      alignment_temperature=alignment_temperature,
      instance_temperature=instance_temperature,
      instance_weight=weight,
    )
    return result.loss, result

  gradient, result = run((1.0, 0.1, 0.25))
  np.testing.assert_allclose(
    result.loss, result.alignment + 0.25 * result.instance, rtol=1e-6
  )
  np.testing.assert_allclose(gradient[2], result.instance, rtol=1e-6)
  assert all(np.isfinite(part) and part != 0 for part in gradient)


def test_published_is_free_alignment_plus_repulsion_of_directions(
  rng, x64, oracle
):
  x = rng.normal(size=SHAPE)
  result = jax.jit(functools.partial(pmrl_loss, **PUBLISHED))(x)
  expected = oracle.pmrl(
    x,
    np.ones(SHAPE[:2], bool),
    np.arange(6),
    orientation="free",
    contrast_kind="directions",
    alignment_temperature=0.05,
    instance_temperature=0.1,
    instance_weight=1.0,
  )
  np.testing.assert_allclose(result[:3], expected, rtol=1e-9)


def test_modalities_are_contrasted_by_the_value_of_the_swapped_stack(
  rng, x64, oracle
):
  """-log softmax_j of ||stack of i with modality m of j||^2 / k."""
  x = rng.normal(size=SHAPE)
  z = oracle.unit(x)
  k, temperature = SHAPE[1], 0.2
  losses = []
  for i, m in itertools.product(range(SHAPE[0]), range(k)):
    values = []
    for j in range(SHAPE[0]):
      stack = z[i].copy()
      stack[m] = z[j, m]
      values.append(np.sum(stack.sum(0) ** 2) / k)
    logits = np.array(values) * k / (2 * (k - 1)) / temperature
    losses.append(np.log(np.exp(logits - logits[i]).sum()))
  result = jax.jit(
    functools.partial(
      pmrl_loss, contrast="modalities", instance_temperature=temperature
    )
  )(x)
  np.testing.assert_allclose(result.instance, np.mean(losses), rtol=1e-9)


def test_two_modalities_are_contrasted_as_by_clip(rng, x64):
  x = rng.normal(size=(6, 2, 8))
  result = jax.jit(functools.partial(pmrl_loss, contrast="modalities"))(x)
  pairs = jax.jit(
    functools.partial(pairwise_contrastive_loss, temperature=0.1)
  )(x)
  np.testing.assert_allclose(result.instance, jnp.mean(pairs), rtol=1e-12)


def test_sample_weights_weigh_both_means(rng, grad_of_pmrl):
  """An instance of weight 2 counts as two; of weight 0, as a negative only."""
  x = rng.normal(size=SHAPE).astype(np.float32)
  weights = np.array([2.0, 1, 0, 1, 0.5, 1])
  run = jax.jit(
    lambda x, weights, where: pmrl_loss(
      x, where=where, sample_weights=weights, alignment_temperature=0.5
    )
  )
  for where in (np.ones(SHAPE[:2], bool), WHERE):
    aligned = alignment_loss(x, where=where, temperature=0.5)
    counts = weights * (where.sum(1) >= 2)
    actual = run(x, weights, where)
    np.testing.assert_allclose(
      actual.alignment, np.sum(counts * aligned) / counts.sum(), rtol=1e-5
    )
    one_by_one = [
      run(x, np.float64(np.arange(6) == i), where).instance for i in range(6)
    ]
    np.testing.assert_allclose(
      actual.instance,
      np.sum(counts * np.array(one_by_one)) / counts.sum(),
      rtol=1e-5,
    )
  assert run(x, np.zeros(6), WHERE).loss == 0


def test_squares_are_the_eigenvalues_of_the_gram_matrix(rng, x64):
  x = rng.normal(size=SHAPE)
  loss = alignment_loss(
    x, temperature=0.5, orientation="free", power=2, normalize=False
  )
  squares = np.linalg.eigvalsh(x @ x.swapaxes(1, 2))[:, ::-1] / 0.5
  expected = np.log(np.exp(squares - squares[:, :1]).sum(1))
  np.testing.assert_allclose(loss, expected, rtol=1e-8, atol=1e-12)


def test_published_cannot_be_changed():
  with pytest.raises(TypeError):
    PUBLISHED["orientation"] = "lifted"


def test_nan_of_a_present_modality_is_not_hidden(rng, grad_of_pmrl):
  x = rng.normal(size=SHAPE).astype(np.float32)
  x[2, 1, 0] = np.nan
  for contrast in CONTRASTS:
    result, _ = grad_of_pmrl(x, **{**DEFAULTS, "contrast": contrast})
    assert np.isnan(result.loss)


def test_descent_on_the_default_aligns_modalities_and_spreads_instances(
  rng, oracle, grad_of_pmrl
):
  x = rng.normal(size=SHAPE).astype(np.float32)
  for _ in range(300):
    _, gradient = grad_of_pmrl(x, **DEFAULTS)
    x = x - 0.5 * gradient
  z = oracle.unit(x)
  cosines = np.einsum("bnd,BNd->bBnN", z, z)
  same = np.eye(6, dtype=bool)
  assert np.min(cosines[same]) > 0.8
  assert np.max(cosines[~same]) < 0.5
