"""The two losses of the published PyTorch code, values and gradients."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import (
  PUBLISHED,
  instance_contrastive_loss,
  pmrl_loss,
  singular_spectrum,
)

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "eigen_loss.npz"

each_count = pytest.mark.parametrize("k", [2, 3, 4])
each_solver = pytest.mark.parametrize("solver", ["svd", "gram"])
each_temperature = pytest.mark.parametrize("tau1", ["0.05", "0.01"])


@pytest.fixture(scope="module")
def goldens():
  with np.load(PATH, allow_pickle=False) as file:
    return dict(file)


def embeddings(goldens, k):
  # [batch, dim, modality] there; columns are unit already.
  return np.swapaxes(goldens[f"in/k{k}/stacked"], 1, 2)


def directions(goldens, k):
  """The golden u1, and whether its sign is defined.

  Two modalities with a negative cosine have projections on u1 whose sum is
  zero, so that rounding decided the sign of the golden.
  """
  u1 = goldens[f"out/k{k}/u1_canonical"]
  total = np.einsum("bnd,bd->b", embeddings(goldens, k), u1)
  return u1, total > 1e-5


def assert_published(goldens, case, value, gradient):
  np.testing.assert_allclose(value, goldens[f"out/{case}"], rtol=1e-4)
  expected = np.swapaxes(goldens[f"grad/{case}"], 1, 2)
  atol = 1e-4 * np.abs(expected).max()
  np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=atol)


@functools.cache
def published_terms(solver):
  """Compiled `(x, tau1) -> (alignment, instance)` and their gradients."""
  options = {**PUBLISHED, "solver": solver, "normalize": False}

  def terms(x, tau1):
    result = pmrl_loss(x, **{**options, "alignment_temperature": tau1})
    pair = result.alignment, result.instance
    return pair, pair

  return jax.jit(jax.jacrev(terms, has_aux=True))


@each_count
@each_solver
def test_spectrum_is_the_published_one(goldens, k, solver):
  spectrum = jax.jit(
    functools.partial(singular_spectrum, solver=solver, normalize=False)
  )(embeddings(goldens, k))
  np.testing.assert_allclose(
    spectrum.singular_values, goldens[f"out/k{k}/singular_values"], atol=1e-6
  )
  u1, is_defined = directions(goldens, k)
  cosines = np.einsum("bd,bd->b", spectrum.leading_direction, u1)
  np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-5)
  np.testing.assert_allclose(cosines[is_defined], 1, atol=1e-5)


@each_count
@each_solver
@each_temperature
def test_terms_are_the_published_ones(goldens, k, solver, tau1):
  gradients, values = published_terms(solver)(
    embeddings(goldens, k), float(tau1)
  )
  case = f"k{k}_tau1_{tau1}/canonical"
  assert_published(goldens, f"{case}/loss_intra", values[0], gradients[0])
  if np.all(directions(goldens, k)[1]):
    assert_published(goldens, f"{case}/loss_inter", values[1], gradients[1])
  else:
    assert k == 2


@each_solver
def test_instance_term_of_two_modalities_is_the_published_one_up_to_sign(
  goldens, solver
):
  u1, _ = directions(goldens, 2)

  @jax.jit
  @jax.value_and_grad
  def instance(x):
    u = singular_spectrum(x, solver=solver, normalize=False).leading_direction
    sign = jnp.sign(jnp.einsum("bd,bd->b", u, u1))[:, None]
    return jnp.mean(instance_contrastive_loss(sign * u, temperature=0.1))

  case = "k2_tau1_0.05/canonical/loss_inter"
  assert_published(goldens, case, *instance(embeddings(goldens, 2)))
