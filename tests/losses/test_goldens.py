"""The two losses of the published PyTorch code, values and gradients."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import PUBLISHED, pmrl_loss, singular_spectrum

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "eigen_loss.npz"
DIRECTION_SIGN = "canonical"  # the sum over modalities of <u1, x> is positive

each_count = pytest.mark.parametrize("k", [2, 3, 4])
each_solver = pytest.mark.parametrize("solver", ["svd", "gram"])


@pytest.fixture(scope="module")
def goldens():
  with np.load(PATH, allow_pickle=False) as file:
    return dict(file)


def embeddings(goldens, k):
  # [batch, dim, modality] there; columns are unit already.
  return np.swapaxes(goldens[f"in/k{k}/stacked"], 1, 2)


@each_count
@each_solver
def test_spectrum_is_the_published_one(goldens, k, solver):
  spectrum = singular_spectrum(
    embeddings(goldens, k), solver=solver, normalize=False
  )
  np.testing.assert_allclose(
    spectrum.singular_values, goldens[f"out/k{k}/singular_values"], atol=1e-6
  )
  np.testing.assert_allclose(
    spectrum.leading_direction,
    goldens[f"out/k{k}/u1_{DIRECTION_SIGN}"],
    atol=1e-5,
  )


@each_count
@each_solver
@pytest.mark.parametrize("tau1", ["0.05", "0.01"])
@pytest.mark.parametrize(
  "term,golden", [("alignment", "intra"), ("instance", "inter")]
)
def test_losses_and_gradients_are_the_published_ones(
  goldens, k, solver, tau1, term, golden
):
  options = {
    **PUBLISHED,
    "alignment_temperature": float(tau1),
    "solver": solver,
  }

  def loss(x):
    # Gradients there are those of the normalised, stacked matrix.
    return getattr(pmrl_loss(x, normalize=False, **options), term)

  value, gradient = jax.value_and_grad(loss)(
    jnp.asarray(embeddings(goldens, k))
  )
  case = f"k{k}_tau1_{tau1}/{DIRECTION_SIGN}/loss_{golden}"
  np.testing.assert_allclose(value, goldens[f"out/{case}"], rtol=1e-4)
  expected = np.swapaxes(goldens[f"grad/{case}"], 1, 2)
  np.testing.assert_allclose(
    gradient, expected, atol=1e-4 * np.abs(expected).max()
  )
