import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import (
  PUBLISHED,
  alignment_loss,
  instance_contrastive_loss,
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


def test_loss_and_gradient_equal_the_oracle(
  rng, x64, oracle, grad_of_pmrl, orientation, contrast, solver
):
  x = rng.normal(size=SHAPE)
  kwargs = {"orientation": orientation, "contrast_kind": contrast}
  result, gradient = grad_of_pmrl(
    x, WHERE, IDS, orientation=orientation, contrast=contrast, solver=solver
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


def test_loss_is_invariant_to_order_rotation_and_length(
  rng, x64, grad_of_pmrl, orientation, contrast, solver
):
  options = {"orientation": orientation, "contrast": contrast, "solver": solver}
  x = rng.normal(size=SHAPE)
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


def test_an_absent_modality_is_a_removed_one(
  rng, x64, grad_of_pmrl, orientation, contrast, solver
):
  x = rng.normal(size=SHAPE)
  options = {"orientation": orientation, "contrast": contrast, "solver": solver}
  where = np.broadcast_to([True, False, True, True], SHAPE[:2])
  masked, gradient = grad_of_pmrl(x, where, **options)
  removed = pmrl_loss(x[:, [0, 2, 3]], **options)
  chex.assert_trees_all_close(masked[:3], removed[:3], rtol=1e-9)
  assert np.all(gradient[:, 1] == 0)


@pytest.mark.parametrize("contrast", ["directions", "modalities", "pairs"])
def test_same_ids_are_no_negatives(rng, contrast):
  x = rng.normal(size=(5, 3, 8)).astype(np.float32)
  result = pmrl_loss(x, contrast=contrast, ids=np.full(5, 7))
  assert result.instance == 0
  assert result.alignment > 0
  all_differ = pmrl_loss(x, contrast=contrast, ids=np.arange(5))
  chex.assert_trees_all_equal(all_differ, pmrl_loss(x, contrast=contrast))


@pytest.mark.parametrize("solver", ["svd", "gram"])
def test_only_free_alignment_is_blind_to_signs(rng, x64, solver):
  x = rng.normal(size=(10, 3, 6))
  x[:, 1:] = x[:, :1] + 0.3 * x[:, 1:]
  flipped = x * np.array([1, -1, 1])[:, None]

  def align(x, orientation):
    return alignment_loss(
      x, temperature=0.5, orientation=orientation, solver=solver
    )

  np.testing.assert_allclose(
    align(flipped, "free"), align(x, "free"), rtol=1e-9
  )
  for orientation in ("lifted", "consensus"):
    assert np.all(align(flipped, orientation) > align(x, orientation) + 0.1)


def test_alignment_lies_between_its_bounds(rng):
  for k, temperature in ((2, 0.5), (3, 0.05), (4, 1.0)):
    low = np.log1p((k - 1) * np.exp(-np.sqrt(k) / temperature))
    x = rng.normal(size=(50, k, 8)).astype(np.float32)
    alike = np.broadcast_to(x[:, :1], x.shape)
    for orientation in ("free", "consensus"):
      options = {"temperature": temperature, "orientation": orientation}
      np.testing.assert_allclose(
        alignment_loss(alike, **options), low, rtol=1e-4
      )
      assert np.all(alignment_loss(x, **options) >= low * (1 - 1e-4))
    orthonormal = np.broadcast_to(np.eye(8)[:k], (2, k, 8))
    np.testing.assert_allclose(
      alignment_loss(orthonormal, temperature=temperature),
      np.log(k),
      rtol=1e-5,
    )


def test_alignment_of_fewer_than_two_modalities_is_zero(rng):
  x = rng.normal(size=(4, 3, 5)).astype(np.float32)
  where = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 1], [1, 1, 0]], bool)

  def total(x):
    loss = alignment_loss(x, temperature=0.1, where=where)
    return jnp.sum(loss[:3]), loss

  (_, loss), gradient = jax.value_and_grad(total, has_aux=True)(x)
  assert np.all(loss[:3] == 0)
  assert loss[3] > 0
  assert np.all(gradient == 0)


@pytest.mark.parametrize("contrast", ["directions", "modalities", "pairs"])
@pytest.mark.parametrize("num_present", [0, 1])
def test_terms_that_no_instance_has_are_zero(rng, contrast, num_present):
  x = rng.normal(size=(4, 3, 5)).astype(np.float32)
  where = np.broadcast_to(np.arange(3) < num_present, (4, 3))

  def loss(x):
    result = pmrl_loss(x, where=where, contrast=contrast)
    return result.loss, result

  (value, result), gradient = jax.value_and_grad(loss, has_aux=True)(x)
  assert result.alignment == 0
  if contrast == "directions" and num_present:
    assert value == result.instance > 0
  else:
    assert value == 0
    assert np.all(gradient == 0)


def test_terms_are_means_over_the_instances_that_have_them(rng):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)
  where = np.ones((6, 3), bool)
  where[4:, 1:] = False
  result = pmrl_loss(x, where=where)
  full = pmrl_loss(x[:4])
  chex.assert_trees_all_close(result[:3], full[:3], rtol=1e-5)


def test_instance_weight_scales_the_instance_term(rng):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)
  result = pmrl_loss(x, instance_weight=0.25)
  expected = result.alignment + 0.25 * result.instance
  np.testing.assert_allclose(result.loss, expected, rtol=1e-6)


def test_published_is_free_alignment_plus_repulsion_of_directions(rng):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)
  result = pmrl_loss(x, **PUBLISHED)
  alignment = alignment_loss(x, temperature=0.05, orientation="free")
  instance = instance_contrastive_loss(
    result.spectrum.leading_direction, temperature=0.1
  )
  chex.assert_trees_all_close(
    result[:3],
    (alignment.mean() + instance.mean(), alignment.mean(), instance.mean()),
    rtol=1e-5,
  )


def test_published_cannot_be_changed():
  with pytest.raises(TypeError):
    PUBLISHED["orientation"] = "lifted"


def test_temperatures_can_be_learned(rng):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)

  def loss(temperatures):
    alignment, instance = temperatures
    return pmrl_loss(
      x, alignment_temperature=alignment, instance_temperature=instance
    ).loss

  gradient = jax.jit(jax.grad(loss))((jnp.asarray(1.0), jnp.asarray(0.1)))
  assert all(np.isfinite(part) and part != 0 for part in gradient)


def test_nan_of_a_present_modality_is_not_hidden(rng):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)
  x[2, 1, 0] = np.nan
  for contrast in ("directions", "modalities", "pairs"):
    assert np.isnan(pmrl_loss(x, contrast=contrast).loss)


def test_descent_on_the_default_aligns_modalities_and_spreads_instances(rng):
  x = jnp.asarray(rng.normal(size=(6, 3, 8)), jnp.float32)

  @jax.jit
  def step(x):
    return x - 0.5 * jax.grad(lambda x: pmrl_loss(x).loss)(x)

  for _ in range(300):
    x = step(x)
  z = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  cosines = jnp.einsum("bnd,BNd->bBnN", z, z)
  same = np.eye(6, dtype=bool)
  assert np.min(cosines[same]) > 0.95
  assert np.max(cosines[~same]) < 0.5
