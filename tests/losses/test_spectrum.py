import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pmrl_jax.losses import singular_spectrum

ORIENTATIONS = ("free", "lifted", "consensus")
SOLVERS = ("svd", "gram")

each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)


def masks(rng, batch, num_modalities):
  """Random presence, with a full, a single and an empty instance."""
  where = rng.random((batch, num_modalities)) < 0.7
  where[0], where[1], where[2] = True, False, False
  where[1, -1] = True
  return where


def projections(solver, orientation, weights, **kwargs):
  """A smooth scalar of everything in a spectrum."""

  def project(x):
    spectrum = singular_spectrum(
      x, solver=solver, orientation=orientation, **kwargs
    )
    terms = jax.tree.map(lambda a, b: jnp.sum(a * b), tuple(spectrum), weights)
    return sum(terms)

  return project


def random_weights(rng, batch, num_modalities, dim):
  shapes = ((num_modalities,), (dim,), (num_modalities,))
  return tuple(rng.normal(size=(batch, *shape)) for shape in shapes)


@each_solver
@each_orientation
@pytest.mark.parametrize("shape", [(7, 2, 5), (7, 4, 6), (7, 6, 3), (7, 3, 1)])
def test_spectrum_equals_the_oracle(
  rng, x64, oracle, solver, orientation, shape
):
  x, where = rng.normal(size=shape), masks(rng, *shape[:2])
  spectrum = singular_spectrum(
    x, where=where, solver=solver, orientation=orientation
  )
  z = oracle.unit(np.where(where[..., None], x, 0))
  for i in range(len(x)):
    expected = oracle.spectrum(z[i], where[i], orientation)
    chex.assert_trees_all_close(
      tuple(part[i] for part in spectrum), expected, atol=1e-7
    )


@each_solver
@each_orientation
def test_spectrum_without_normalisation_keeps_lengths(
  rng, x64, oracle, solver, orientation
):
  x = rng.normal(size=(5, 3, 6))
  spectrum = singular_spectrum(
    x, solver=solver, orientation=orientation, normalize=False
  )
  present = np.ones(3, bool)
  for i in range(len(x)):
    expected = oracle.spectrum(x[i], present, orientation)
    chex.assert_trees_all_close(
      tuple(part[i] for part in spectrum), expected, atol=1e-10
    )


@each_solver
def test_singular_values_descend_and_their_squares_sum_to_the_count(
  rng, degenerate, solver
):
  x = np.concatenate(
    [
      rng.normal(size=(50, 4, 8)),
      *[
        point[None] for name, point in degenerate.items() if "zero" not in name
      ],
    ]
  )
  sigma = singular_spectrum(x, solver=solver).singular_values
  assert np.all(np.diff(sigma) <= 0)
  assert np.all(sigma >= 0)
  np.testing.assert_allclose(np.sum(sigma**2, axis=1), 4, rtol=1e-5)


@each_solver
@each_orientation
def test_leading_direction_is_unit_and_seen_by_the_modalities(
  rng, solver, orientation
):
  x = rng.normal(size=(50, 5, 8))
  direction = singular_spectrum(
    x, solver=solver, orientation=orientation
  ).leading_direction
  np.testing.assert_allclose(np.linalg.norm(direction, axis=1), 1, atol=1e-6)
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  assert np.all(np.einsum("bnd,bd->b", unit, direction) > 0)


@each_solver
def test_opposed_modalities_are_oriented_by_the_first_present_one(rng, solver):
  x = rng.normal(size=(40, 3, 16))
  x[:, 2] = -x[:, 1]
  where = np.broadcast_to([False, True, True], (40, 3))
  spectrum = singular_spectrum(x, where=where, solver=solver)
  expected = x[:, 1] / np.linalg.norm(x[:, 1], axis=-1, keepdims=True)
  np.testing.assert_allclose(spectrum.leading_direction, expected, atol=1e-5)


@each_solver
def test_lifted_weights_are_not_negative(rng, solver):
  x = rng.normal(size=(200, 4, 3))
  spectrum = singular_spectrum(x, solver=solver, orientation="lifted")
  assert np.min(spectrum.modality_weights) >= -1e-6


def test_consensus_value_is_bounded_by_the_leading_singular_value(rng):
  x = rng.normal(size=(100, 3, 4))
  free = singular_spectrum(x).singular_values[:, 0]
  consensus = singular_spectrum(x, orientation="consensus").singular_values
  assert np.all(consensus[:, 0] <= free + 1e-6)
  alike = np.broadcast_to(x[:, :1], x.shape)
  np.testing.assert_allclose(
    singular_spectrum(alike, orientation="consensus").singular_values[:, 0],
    np.sqrt(3),
    rtol=1e-6,
  )


@each_solver
@each_orientation
@pytest.mark.parametrize("shape", [(3, 3, 5), (3, 4, 3)])
def test_gradients_equal_finite_differences(
  rng, x64, solver, orientation, shape
):
  where = np.ones(shape[:2], bool)
  where[1, 0] = False
  project = projections(
    solver, orientation, random_weights(rng, *shape), where=where
  )
  x = rng.normal(size=shape)
  if shape[1] > shape[2]:
    # More modalities than dimensions: sigma_4 = 0 has no two-sided slope.
    weights = random_weights(rng, *shape)
    weights[0][:, 3] = 0
    project = projections(solver, orientation, weights, where=where)
    if orientation == "lifted":
      project = projections(
        solver, orientation, random_weights(rng, *shape), where=where
      )
  check_grads(jax.jit(project), (x,), order=1, modes=("fwd", "rev"))


@each_solver
def test_gradients_equal_those_of_svd_autodiff(rng, x64, solver):
  x = rng.normal(size=(20, 4, 9))
  weights = random_weights(rng, *x.shape)

  def plain(x):
    z = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    v, sigma, ut = jnp.linalg.svd(z, full_matrices=False)
    v1, u1 = v[..., 0], ut[..., 0, :]
    sign = jnp.sign(jnp.sum(v1, axis=-1, keepdims=True))
    terms = (sigma, sign * u1, sign * v1)
    return sum(jnp.sum(a * b) for a, b in zip(terms, weights))

  ours = jax.grad(projections(solver, "free", weights))(x)
  # The damping moves the response by (sqrt(eps) lambda_1 / gap)^2.
  chex.assert_trees_all_close(ours, jax.grad(plain)(x), rtol=1e-8, atol=1e-8)


@each_orientation
@each_solver
def test_gradients_are_finite_at_degenerate_points(
  rng, degenerate, solver, orientation
):
  x = np.stack(list(degenerate.values()))
  project = projections(solver, orientation, random_weights(rng, *x.shape))
  gradient = np.asarray(jax.grad(project)(jnp.asarray(x, jnp.float32)))
  for name, part in zip(degenerate, gradient):
    assert np.all(np.isfinite(part)), name
  tangent = rng.normal(size=x.shape).astype(np.float32)
  _, change = jax.jvp(project, (jnp.asarray(x, jnp.float32),), (tangent,))
  assert np.isfinite(change)


@each_solver
def test_gradients_agree_at_the_edge_of_a_crossing(rng, x64, solver):
  """Two leading singular values that nearly meet: the response is damped."""

  def leading(angle):
    z = jnp.stack(
      [
        jnp.array([1.0, 0.0, 0.0]),
        jnp.stack([jnp.sin(angle), jnp.cos(angle), 0.0 * angle]),
      ]
    )[None]
    return singular_spectrum(
      z, solver=solver, orientation="lifted"
    ).leading_direction[0]

  # sigma_1 = sigma_2 nowhere for angles in (0, pi/2): lifted Gram > 0.
  slopes = jax.jacfwd(leading)(0.3)
  step = 1e-6
  expected = (leading(0.3 + step) - leading(0.3 - step)) / (2 * step)
  np.testing.assert_allclose(slopes, expected, atol=1e-8)


@each_solver
def test_response_is_damped_where_leading_values_meet(solver):
  weights = np.arange(1.0, 4.0)[None]

  def project(x):
    return jnp.sum(
      singular_spectrum(x, solver=solver).modality_weights * weights
    )

  largest = 0.0
  for gap in (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3):
    x = np.eye(3)[None] + gap * np.ones((1, 3, 3))
    slope = jax.grad(project)(jnp.asarray(x, jnp.float32))
    largest = max(largest, float(jnp.max(jnp.abs(slope))))
  # 1 / (2 sqrt(eps)) times the weights; undamped it would exceed 1e6.
  assert largest < 1e4


@each_solver
@each_orientation
def test_content_of_an_absent_modality_never_matters(rng, solver, orientation):
  x = rng.normal(size=(6, 3, 5)).astype(np.float32)
  where = masks(rng, 6, 3)
  project = projections(
    solver, orientation, random_weights(rng, *x.shape), where=where
  )
  expected = jax.value_and_grad(project)(x)
  for content in (np.nan, np.inf, -np.inf, 1e30):
    dirty = np.where(where[..., None], x, np.float32(content))
    actual = jax.value_and_grad(project)(dirty)
    chex.assert_trees_all_equal(actual, expected)
  assert np.all(np.asarray(expected[1])[~where] == 0)


@each_solver
@each_orientation
def test_an_absent_modality_is_a_removed_one(rng, x64, solver, orientation):
  x = rng.normal(size=(6, 4, 5))
  where = np.broadcast_to([True, False, True, True], (6, 4))
  masked = singular_spectrum(
    x, where=where, solver=solver, orientation=orientation
  )
  removed = singular_spectrum(
    x[:, [0, 2, 3]], solver=solver, orientation=orientation
  )
  chex.assert_trees_all_close(
    masked.singular_values[:, :3], removed.singular_values, atol=1e-12
  )
  chex.assert_trees_all_close(
    masked.leading_direction, removed.leading_direction, atol=1e-12
  )
  chex.assert_trees_all_close(
    masked.modality_weights[:, [0, 2, 3]], removed.modality_weights, atol=1e-12
  )
  assert np.all(masked.singular_values[:, 3] == 0)
  assert np.all(masked.modality_weights[:, 1] == 0)


def test_nan_of_a_present_modality_is_not_hidden(rng):
  x = rng.normal(size=(3, 3, 5))
  x[1, 2, 0] = np.nan
  for solver in SOLVERS:
    for orientation in ORIENTATIONS:
      spectrum = singular_spectrum(x, solver=solver, orientation=orientation)
      assert np.all(np.isnan(spectrum.leading_direction[1]))
      assert np.isnan(spectrum.singular_values[1, 0])
      assert np.all(np.isfinite(spectrum.leading_direction[[0, 2]]))


def test_gram_solver_keeps_the_digits_of_a_small_singular_value(rng):
  a = rng.normal(size=(20, 1, 64))
  x = np.concatenate([a, a + 1e-5 * rng.normal(size=a.shape)], axis=1)
  sigma = singular_spectrum(x, solver="gram").singular_values[:, 1]
  unit = x.astype(np.float32).astype(np.float64)
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
  expected = np.linalg.svd(unit, compute_uv=False)[:, 1]
  # sqrt(eigvalsh) of the float32 Gram matrix would be off by 3e-4.
  np.testing.assert_allclose(sigma, expected, atol=1e-6)
