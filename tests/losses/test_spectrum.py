import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from pmrl_jax.losses import singular_spectrum

ORIENTATIONS = ("free", "lifted", "consensus")
SOLVERS = ("svd", "gram")
# One shape for most tests, so that each combination is compiled once per dtype.
SHAPE = (12, 4, 8)

each_solver = pytest.mark.parametrize("solver", SOLVERS)
each_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS)


def generic(rng, dtype=np.float32, shape=SHAPE):
  return rng.normal(size=shape).astype(dtype)


def masks(rng, batch, num_modalities):
  """Random presence, with a full, a single and an empty instance."""
  where = rng.random((batch, num_modalities)) < 0.7
  where[0], where[1], where[2] = True, False, False
  where[1, -1] = True
  return where


@each_solver
@each_orientation
@pytest.mark.parametrize("shape", [SHAPE, (6, 4, 3)])
def test_values_and_gradients_equal_the_oracle(
  rng, x64, oracle, grad_of_spectrum, solver, orientation, shape
):
  x, where = generic(rng, np.float64, shape), masks(rng, *shape[:2])
  weights = oracle.spectrum_weights(shape)

  def expected(x):
    z = oracle.unit(np.where(where[..., None], x, 0))
    parts = [oracle.spectrum(*each, orientation) for each in zip(z, where)]
    return tuple(np.stack(part) for part in zip(*parts))

  def project(x):
    return sum(np.sum(a * b) for a, b in zip(expected(x), weights))

  spectrum, gradient = grad_of_spectrum(
    x, where, solver=solver, orientation=orientation
  )
  chex.assert_trees_all_close(tuple(spectrum), expected(x), atol=1e-9)
  step = 1e-6
  for way in rng.normal(size=(3, *shape)):
    slope = (project(x + step * way) - project(x - step * way)) / (2 * step)
    np.testing.assert_allclose(np.sum(gradient * way), slope, rtol=1e-6)


@each_solver
@each_orientation
def test_gradients_pass_check_grads(rng, x64, solver, orientation):
  spectrum = functools.partial(
    singular_spectrum, solver=solver, orientation=orientation
  )
  x = generic(rng, np.float64, (2, 3, 5))
  check_grads(jax.jit(spectrum), (x,), order=1, modes=("fwd", "rev"))


@each_solver
def test_gradients_equal_those_of_svd_autodiff(
  rng, x64, oracle, grad_of_spectrum, solver
):
  x = generic(rng, np.float64)
  weights = oracle.spectrum_weights(SHAPE)

  @jax.jit
  @jax.grad
  def plain(x):
    z = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
    v, sigma, ut = jnp.linalg.svd(z, full_matrices=False)
    v1, u1 = v[..., 0], ut[..., 0, :]
    sign = jnp.sign(jnp.sum(v1, axis=-1, keepdims=True))
    terms = (sigma, sign * u1, sign * v1)
    return sum(jnp.sum(a * b) for a, b in zip(terms, weights))

  _, gradient = grad_of_spectrum(x, solver=solver, orientation="free")
  chex.assert_trees_all_close(gradient, plain(x), rtol=1e-9, atol=1e-10)


@each_solver
@each_orientation
def test_gradients_are_finite_at_degenerate_points(
  degenerate, grad_of_spectrum, solver, orientation
):
  x = np.stack(list(degenerate.values())).astype(np.float32)
  spectrum, gradient = grad_of_spectrum(
    x, solver=solver, orientation=orientation
  )
  chex.assert_tree_all_finite(spectrum)
  for name, part in zip(degenerate, gradient):
    assert np.all(np.isfinite(part)), name


@each_solver
def test_response_is_damped_where_leading_values_meet(grad_of_spectrum, solver):
  gaps = np.array([0, *np.geomspace(1e-9, 1, 11)])[:, None, None]
  x = (np.eye(4, 8) + gaps * np.ones((4, 8))).astype(np.float32)
  _, gradient = grad_of_spectrum(x, solver=solver, orientation="free")
  # At most 1 / (2 sqrt(eps)) times weights of order one; undamped: 1e7.
  assert np.max(np.abs(gradient)) < 3e4


@each_orientation
def test_solvers_agree_in_float32(rng, grad_of_spectrum, orientation):
  x, where = generic(rng), masks(rng, *SHAPE[:2])
  by_svd, by_gram = (
    grad_of_spectrum(x, where, solver=solver, orientation=orientation)
    for solver in SOLVERS
  )
  chex.assert_trees_all_close(by_svd[0], by_gram[0], atol=2e-5)
  chex.assert_trees_all_close(by_svd[1], by_gram[1], rtol=1e-3, atol=2e-4)


@each_solver
def test_singular_values_descend_and_their_squares_sum_to_the_count(
  degenerate, grad_of_spectrum, solver
):
  x = np.stack(list(degenerate.values())).astype(np.float32)
  spectrum, _ = grad_of_spectrum(x, solver=solver, orientation="free")
  sigma = spectrum.singular_values
  assert np.all(np.diff(sigma) <= 0)
  assert np.all(sigma >= 0)
  counts = np.sum(np.any(x != 0, axis=-1), axis=-1)
  np.testing.assert_allclose(np.sum(sigma**2, axis=1), counts, rtol=1e-5)


@each_solver
@each_orientation
def test_leading_direction_is_unit_and_seen_by_the_modalities(
  rng, oracle, grad_of_spectrum, solver, orientation
):
  x = generic(rng)
  spectrum, _ = grad_of_spectrum(x, solver=solver, orientation=orientation)
  u = spectrum.leading_direction
  np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, atol=1e-6)
  assert np.all(np.einsum("bnd,bd->b", oracle.unit(x), u) > 0)
  if orientation == "lifted":
    assert np.min(spectrum.modality_weights) >= -1e-6


@each_solver
def test_opposed_modalities_are_oriented_by_the_first_present_one(
  rng, oracle, grad_of_spectrum, solver
):
  x = generic(rng)
  x[:, 2] = -2 * x[:, 1]
  where = np.broadcast_to([False, True, True, False], SHAPE[:2])
  spectrum, _ = grad_of_spectrum(x, where, solver=solver, orientation="free")
  np.testing.assert_allclose(
    spectrum.leading_direction, oracle.unit(x[:, 1]), atol=1e-5
  )


def test_consensus_is_below_the_leading_value_unless_all_agree(
  rng, grad_of_spectrum
):
  x = generic(rng)
  x[:6] = x[:6, :1]
  free, consensus = (
    grad_of_spectrum(x, solver="svd", orientation=orientation)[0]
    for orientation in ("free", "consensus")
  )
  agreement = consensus.singular_values[:, 0]
  np.testing.assert_allclose(agreement[:6], 2, rtol=1e-6)
  assert np.all(agreement[6:] < free.singular_values[6:, 0] - 1e-3)


@each_solver
@each_orientation
def test_content_of_an_absent_modality_never_matters(
  rng, grad_of_spectrum, solver, orientation
):
  x, where = generic(rng), masks(rng, *SHAPE[:2])
  options = {"solver": solver, "orientation": orientation}
  expected = grad_of_spectrum(x, where, **options)
  for content in (np.nan, np.inf, -np.inf, 1e30):
    dirty = np.where(where[..., None], x, np.float32(content))
    actual = grad_of_spectrum(dirty, where, **options)
    chex.assert_trees_all_equal(actual, expected)
  spectrum, gradient = expected
  assert np.all(gradient[~where] == 0)
  assert np.all(spectrum.modality_weights[~where] == 0)
  for values, present in zip(spectrum.singular_values, where):
    assert np.all(values[np.sum(present) :] == 0)


@each_solver
@each_orientation
def test_nan_of_a_present_modality_is_not_hidden(
  rng, grad_of_spectrum, solver, orientation
):
  x = generic(rng)
  x[1, 2, 0] = np.nan
  spectrum, _ = grad_of_spectrum(x, solver=solver, orientation=orientation)
  assert np.all(np.isnan(spectrum.leading_direction[1]))
  assert np.isnan(spectrum.singular_values[1, 0])
  chex.assert_tree_all_finite(jax.tree.map(lambda a: a[2:], spectrum))


@each_solver
def test_without_normalisation_lengths_are_kept(rng, oracle, solver):
  x = generic(rng)
  spectrum = jax.jit(
    functools.partial(singular_spectrum, solver=solver, normalize=False)
  )(x)
  present = np.ones(SHAPE[1], bool)
  for each, *parts in zip(x, *spectrum):
    expected = oracle.spectrum(each.astype(np.float64), present, "free")
    chex.assert_trees_all_close(tuple(parts), expected, rtol=1e-3, atol=1e-4)


def test_gram_solver_keeps_the_digits_of_a_small_singular_value(rng, oracle):
  a = rng.normal(size=(20, 1, 64))
  x = np.concatenate([a, a + 1e-5 * rng.normal(size=a.shape)], axis=1)
  spectrum = jax.jit(functools.partial(singular_spectrum, solver="gram"))(x)
  z = oracle.unit(x.astype(np.float32).astype(np.float64))
  expected = np.linalg.svd(z, compute_uv=False)[:, 1]
  # The square root of an eigenvalue in float32 would be off by 3e-4.
  np.testing.assert_allclose(
    spectrum.singular_values[:, 1], expected, atol=1e-6
  )
