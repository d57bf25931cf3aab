"""Float64 NumPy oracles and test points, written instance by instance."""

import functools
import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.losses import pmrl_loss, singular_spectrum

ALL_OPTIONS = list(
  itertools.product(
    ("free", "lifted", "consensus"),
    ("directions", "modalities", "pairs"),
    ("svd", "gram"),
  )
)


def pytest_generate_tests(metafunc):
  """Runs a test that names all three options once for each combination."""
  options = ("orientation", "contrast", "solver")
  if set(options) <= set(metafunc.fixturenames):
    metafunc.parametrize(options, ALL_OPTIONS)


def unit(x):
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.divide(x, length, out=np.zeros_like(x), where=length > 0)


def spectrum(z, present, orientation):
  """Spectrum of one instance: z [modality, dim], present [modality]."""
  num_modalities, dim = z.shape
  values, weights = np.zeros(num_modalities), np.zeros(num_modalities)
  rows = z[present]
  if not len(rows):
    return values, np.zeros(dim), weights
  matrix = rows
  if orientation == "lifted":
    matrix = np.hstack([rows, np.ones((len(rows), 1))]) / np.sqrt(2)
  left, sigma, _ = np.linalg.svd(matrix, full_matrices=False)
  values[: len(sigma)] = sigma
  if orientation == "consensus":
    values[0] = np.linalg.norm(rows.sum(0)) / np.sqrt(len(rows))
    weights[present] = 1 / np.sqrt(len(rows))
  else:
    leading = left[:, 0]
    total = leading.sum()
    if abs(total) < 1e-8:
      total = leading @ 0.5 ** np.flatnonzero(present)
    weights[present] = leading * np.sign(total)
  return values, unit(weights @ np.where(present[:, None], z, 0)), weights


def alignment(z, present, orientation, temperature):
  """Alignment loss of one instance."""
  num_present = present.sum()
  if num_present < 2:
    return 0.0
  values, _, _ = spectrum(z, present, orientation)
  logits = values[:num_present] / temperature
  return np.log(np.exp(logits - logits[0]).sum())


def contrast(queries, keys, where, ids, temperature, both_ways):
  """Contrastive losses [batch] of queries and keys [batch, dim]."""
  batch = len(queries)
  losses = np.zeros(batch)
  for i in np.flatnonzero(where):
    negatives = [
      j for j in np.flatnonzero(where) if j != i and ids[j] != ids[i]
    ]
    positive = queries[i] @ keys[i] / temperature
    rows = [queries[i] @ keys[j] / temperature for j in negatives]
    columns = [queries[j] @ keys[i] / temperature for j in negatives]
    row, column = (
      np.log(np.exp(np.array([positive, *logits]) - positive).sum())
      for logits in (rows, columns)
    )
    losses[i] = (row + column) / 2 if both_ways else row
  return losses


def cross_entropy(own, alike, negatives, smoothing):
  """Of one softmax: own and alike logits are to win, evenly."""
  logits = np.array([own, *alike, *negatives])
  target = np.full(len(logits), smoothing / len(logits))
  target[: 1 + len(alike)] += (1 - smoothing) / (1 + len(alike))
  return np.log(np.exp(logits - own).sum()) + own - target @ logits


def opposites(z, where, orientation, kind):
  """What is contrasted: a list of (queries, keys, where)."""
  batch, num_modalities, _ = z.shape

  def leading(presence):
    return np.stack(
      [spectrum(z[i], presence[i], orientation)[1] for i in range(batch)]
    )

  def agreement(presence):
    """Z^T w / sqrt(k) of the k present modalities."""
    weights = np.stack(
      [spectrum(z[i], presence[i], orientation)[2] for i in range(batch)]
    )
    count = np.maximum(presence.sum(1, keepdims=True), 1)
    present = np.where(presence[..., None], z, 0)
    return np.einsum("bn,bnd->bd", weights / np.sqrt(count), present)

  if kind == "directions":
    u = leading(where)
    return [(u, u, where.any(1))]
  if kind == "pairs":
    return [
      (z[:, m], z[:, n], where[:, m] & where[:, n])
      for m, n in itertools.combinations(range(num_modalities), 2)
    ]
  triples = []
  for m in range(num_modalities):
    others = where & (np.arange(num_modalities) != m)
    triples.append((agreement(others), z[:, m], where[:, m] & others.any(1)))
  return triples


def pmrl(
  x,
  where,
  ids,
  *,
  orientation,
  contrast_kind,
  alignment_temperature=1.0,
  instance_temperature=0.1,
  instance_weight=3.0,
):
  """The loss and its two terms for x [batch, modality, dim]."""
  z = unit(np.where(where[..., None], x, 0))
  aligned = [
    alignment(z[i], where[i], orientation, alignment_temperature)
    for i in range(len(z))
    if where[i].sum() >= 2
  ]
  triples = opposites(z, where, orientation, contrast_kind)
  losses = np.stack(
    [
      contrast(q, k, w, ids, instance_temperature, contrast_kind == "pairs")
      for q, k, w in triples
    ]
  )
  counts = np.stack([w for _, _, w in triples]).sum(0)
  has = counts > 0
  per_instance = losses.sum(0)[has] / counts[has]
  terms = [
    np.mean(term) if len(term) else 0.0 for term in (aligned, per_instance)
  ]
  return terms[0] + instance_weight * terms[1], terms[0], terms[1]


@pytest.fixture(scope="session")
def oracle():
  return SimpleNamespace(
    unit=unit,
    spectrum=spectrum,
    alignment=alignment,
    contrast=contrast,
    cross_entropy=cross_entropy,
    pmrl=pmrl,
    spectrum_weights=spectrum_weights,
  )


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


@pytest.fixture(scope="session")
def grad_of_pmrl():
  """`run(x, where, ids, **options)` gives a `PMRLLoss` and its gradient.

  Compiled once per combination of options, dtype and shape.
  """

  @functools.cache
  def build(orientation, contrast, solver):
    def loss(x, where, ids):
      result = pmrl_loss(
        x,
        where=where,
        ids=ids,
        orientation=orientation,
        contrast=contrast,
        solver=solver,
      )
      return result.loss, result

    return jax.jit(jax.value_and_grad(loss, has_aux=True))

  def run(x, where=None, ids=None, **options):
    where = np.ones(x.shape[:2], bool) if where is None else where
    ids = np.arange(len(x)) if ids is None else ids
    (_, result), gradient = build(**options)(x, where, np.asarray(ids, "int32"))
    return jax.device_get((result, gradient))

  return run


@pytest.fixture(scope="session")
def grad_of_spectrum():
  """`run(x, where, solver=, orientation=)` gives a spectrum and a gradient.

  The gradient is that of the sum of all entries times `spectrum_weights`.
  """

  @functools.cache
  def build(orientation, solver):
    def project(x, where, weights):
      spectrum = singular_spectrum(
        x, where=where, solver=solver, orientation=orientation
      )
      total = sum(jnp.sum(a * b) for a, b in zip(spectrum, weights))
      return total, spectrum

    return jax.jit(jax.value_and_grad(project, has_aux=True))

  def run(x, where=None, **options):
    where = np.ones(x.shape[:2], bool) if where is None else where
    weights = [part.astype(x.dtype) for part in spectrum_weights(x.shape)]
    (_, result), gradient = build(**options)(x, where, weights)
    return jax.device_get((result, gradient))

  return run


def spectrum_weights(shape):
  batch, num_modalities, dim = shape
  rng = np.random.default_rng(2)
  return [
    rng.normal(size=(batch, size))
    for size in (num_modalities, dim, num_modalities)
  ]


@pytest.fixture
def degenerate():
  """Four modalities, dim 8: points where autodiff gives NaN, and neighbours."""
  e = np.eye(8)
  generic = unit(np.random.default_rng(1).normal(size=(4, 8)))
  return {
    "identical": np.stack([e[0]] * 4),
    "identical_generic": np.stack([generic[0]] * 4),
    "almost_identical": generic[0] + 1e-7 * generic,
    "two_duplicate_pairs": np.stack([e[0], e[0], e[1], e[1]]),
    "two_generic_duplicate_pairs": generic[[0, 0, 1, 1]],
    "orthonormal": e[:4],
    "almost_orthonormal": e[:4] + 1e-7 * generic,
    "one_zero": np.concatenate([generic[:3], np.zeros((1, 8))]),
    "all_zero": np.zeros((4, 8)),
    "flipped_duplicates": np.stack([e[0], -e[0], e[0], e[0]]),
    "two_opposed_pairs": np.stack([e[0], -e[0], e[1], -e[1]]),
    "generic_flipped": generic[0] * np.array([[1], [-1], [1], [-1]]),
  }
