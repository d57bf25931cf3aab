"""Singular values and leading direction of the modalities of one instance.

Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning,
arXiv 2507.17343, with a gradient that is finite wherever the textbook one is
not, and with two orientations that, unlike the singular values, see signs.

The matrix of one instance is Z `[modality, dim]`, one embedding per row,
Z = sum_i sigma_i v_i u_i^T; its Gram matrix G = Z Z^T has the eigenvalues
lambda_i = sigma_i^2 and the eigenvectors v_i.
"""

import functools
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from pmrl_jax.losses._checks import check_choice, check_embeddings
from pmrl_jax.losses._embeddings import inverse_length, norm, prepare, unit

Solver = Literal["svd", "gram"]
Orientation = Literal["free", "lifted", "consensus"]

# Products round to less than float32 on accelerators unless told otherwise.
_einsum = functools.partial(jnp.einsum, precision="highest")


class Spectrum(NamedTuple):
  """What the modalities of an instance have in common, and what they do not."""

  singular_values: jax.Array  # [batch, modality], descending
  leading_direction: jax.Array  # [batch, dim], unit
  modality_weights: jax.Array  # [batch, modality], unit


def singular_spectrum(
  embeddings: jax.Array,
  *,
  where: jax.Array | None = None,
  solver: Solver = "svd",
  orientation: Orientation = "free",
  normalize: bool = True,
) -> Spectrum:
  """Decomposes the embeddings of each instance, with safe gradients.

  With the unit embeddings of the k present modalities as rows of Z:

      Z = sum_i sigma_i v_i u_i^T,   sigma_1 >= ... >= sigma_k >= 0

  and the modality weights w and leading direction u = Z^T w / ||Z^T w|| are,
  by orientation,

  * `"free"`: w = v_1, hence u = u_1. Its sign, which a decomposition leaves
    open, is such that the projections of the modalities on u have a positive
    sum; where that sum is zero (two opposed modalities), the projection of
    the first present modality is positive.
  * `"lifted"`: sigma and w = v_1 of Z' = [Z, 1] / sqrt(2), every embedding with
    one more, constant coordinate. Its Gram matrix (G + 1) / 2 has no negative
    entry, so w >= 0 (Perron, Frobenius) and opposed modalities do not agree.
  * `"consensus"`: w = 1 / sqrt(k) for every present modality, so that u is the
    normalised sum, and the first singular value is replaced by

        ||Z^T w|| = ||sum_m z_m|| / sqrt(k)  <=  sigma_1

    equal only where all modalities have one direction, sign included. It may
    be smaller than the others, which stay sigma_2 >= ... >= sigma_k.

  Gradients are those of the decomposition, with a zero response of a singular
  value that is zero and a damped response of u where sigma_1 = sigma_2.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters.
    solver: `"svd"` of Z or `"gram"`, the eigenvectors of the small matrix G;
      the same values and gradients, up to rounding.
    orientation: `"free"`, `"lifted"` or `"consensus"`, see above.
    normalize: whether embeddings are divided by their length first.

  Returns:
    `Spectrum(singular_values [batch, modality], leading_direction
    [batch, dim], modality_weights [batch, modality])`, float32 or wider. The
    singular values are zero beyond the number of present modalities, the
    weights of absent modalities are zero, and so is the direction of an
    instance whose weighted sum is.

  Raises:
    TypeError: if `embeddings` is not floating or `where` not bool.
    ValueError: if a shape or a choice is another one.

  Reference:
    Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning,
    arXiv 2507.17343.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import singular_spectrum
  >>> alike = jnp.array([[[3.0, 0.0], [5.0, 0.0]]])
  >>> spectrum = singular_spectrum(alike)
  >>> [round(float(value), 4) for value in spectrum.singular_values[0]]
  [1.4142, 0.0]
  >>> [round(float(value), 4) for value in spectrum.leading_direction[0]]
  [1.0, 0.0]
  """
  embeddings = jnp.asarray(embeddings)
  where = None if where is None else jnp.asarray(where)
  check_embeddings(embeddings, where)
  check_choice(solver, "solver", get_args(Solver))
  check_choice(orientation, "orientation", get_args(Orientation))
  x, where = prepare(embeddings, where, normalize=False)
  return spectrum_of(
    x, where, solver=solver, orientation=orientation, normalize=normalize
  )


def spectrum_of(
  x: jax.Array,
  where: jax.Array,
  *,
  solver: Solver,
  orientation: Orientation,
  normalize: bool = False,
) -> Spectrum:
  """Returns the spectrum of prepared embeddings `[..., modality, dim]`.

  All that is needed of many coordinates are two small sums of products with
  the embeddings as they come: their Gram matrix, and combinations of them. So
  nothing as large as the embeddings is ever made of them, where a solver can
  do with the Gram matrix.
  """
  if normalize and solver == "svd":
    x, normalize = unit(x), False
  gram = _gram(x)
  scale = jnp.ones((), x.dtype)  # Z = scale * x, row by row
  if normalize:
    scale = inverse_length(jnp.diagonal(gram, axis1=-2, axis2=-1))
    gram = gram * scale[..., :, None] * scale[..., None, :]
  lifted = None
  if orientation == "lifted":
    lifted = where.astype(x.dtype)
    gram = (gram + lifted[..., :, None] * lifted[..., None, :]) / 2
  fixed = jax.lax.stop_gradient((x, scale, lifted))
  singular_values, weights = _decompose(gram, fixed, solver)
  if orientation == "consensus":
    weights = unit(where.astype(x.dtype))
  else:
    weights = _orient(weights, where)
  combined = _combine(x, scale * weights)
  if orientation == "consensus":
    singular_values = jnp.concatenate(
      [norm(combined)[..., None], singular_values[..., 1:]], axis=-1
    )
  # Rounding may leave something where k modalities cannot have a value.
  rank = jnp.sum(where, axis=-1, keepdims=True)
  index = jax.lax.broadcasted_iota(rank.dtype, where.shape, where.ndim - 1)
  singular_values = jnp.where(index < rank, singular_values, 0)
  return Spectrum(singular_values, unit(combined), weights)


def spectrum_and_others(
  z: jax.Array, where: jax.Array, *, solver: Solver, orientation: Orientation
) -> tuple[Spectrum, jax.Array]:
  """Returns the spectrum, and what all modalities but one agree on.

  Args:
    z: `[batch, modality, dim]`, prepared.
    where: `[batch, modality]` bool.
    solver: as in `singular_spectrum`.
    orientation: as in `singular_spectrum`.

  Returns:
    The spectrum of all present modalities, and `[batch, modality, dim]`: for
    every modality Z^T w / sqrt(k) of its k present others, which is their
    leading direction, as long as they agree (1: wholly).
  """
  itself = jnp.eye(z.shape[1], dtype=bool)[None]
  others = where[:, None] & ~itself  # [batch, modality, other]
  count = jnp.maximum(jnp.sum(others, axis=-1, keepdims=True), 1)
  count = count.astype(z.dtype)
  if orientation == "consensus":
    # Neither a decomposition nor a copy of the embeddings per modality.
    rest = jnp.sum(z, axis=1, keepdims=True) - z
    return (
      spectrum_of(z, where, solver=solver, orientation=orientation),
      rest / count,
    )
  # One batch of decompositions, not two side by side: on a CPU with two cores
  # each would wait for a thread that the other one occupies.
  subsets = jnp.concatenate([where[:, None], others], axis=1)
  stacks = jnp.where(subsets[..., None], z[:, None], 0)
  spectra = spectrum_of(stacks, subsets, solver=solver, orientation=orientation)
  everything = Spectrum(*(field[:, 0] for field in spectra))
  weights = spectra.modality_weights[:, 1:] / jnp.sqrt(count)
  return everything, _combine(stacks[:, 1:], weights)


def _combine(z: jax.Array, weights: jax.Array) -> jax.Array:
  return _einsum("...nd,...n->...d", z, weights)


def _orient(weights: jax.Array, where: jax.Array) -> jax.Array:
  """Chooses between w and -w: the sum of <u, z_m> = sigma_1 w_m is positive."""
  weights = jnp.where(where, weights, 0)
  balance = jnp.sum(weights, axis=-1, keepdims=True)
  # Two opposed modalities have w = (1, -1) / sqrt(2): without a tie-break
  # rounding would decide, differently for each solver and device.
  order = 0.5 ** jnp.arange(weights.shape[-1], dtype=weights.dtype)
  first = _einsum("...n,n->...", weights, order)[..., None]
  tie = jnp.abs(balance) <= jnp.finfo(weights.dtype).eps ** 0.5
  return jnp.where(jnp.where(tie, first, balance) < 0, -weights, weights)


# What Z is made of: embeddings, a factor for each row (or one for all), and the
# constant coordinate of each row, or None if there is none.
_Rows = tuple[jax.Array, jax.Array, jax.Array | None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _decompose(
  gram: jax.Array, rows: _Rows, solver: Solver
) -> tuple[jax.Array, jax.Array]:
  """Returns all sigma `[..., modality]` and v_1 `[..., modality]` of Z.

  Args:
    gram: `[..., modality, modality]`, Z Z^T, which gradients go through.
    rows: what Z is made of, for the digits that its Gram matrix has lost.
    solver: `"svd"` or `"gram"`.
  """
  singular_values, vectors = _solve(gram, rows, solver)
  return singular_values, vectors[..., 0]


@_decompose.defjvp
def _decompose_jvp(solver, primals, tangents):
  """First-order perturbation of G, shared by the solvers.

  With R = V^T dG V:

      d sigma_i = R_ii / (2 sigma_i)
      d v_1     = sum_{j>1} v_j R_j1 / (lambda_1 - lambda_j)

  Only gaps to lambda_1 enter, so sigma_i = sigma_j is harmless for i, j > 1.
  """
  (gram, rows), (d_gram, _) = primals, tangents
  singular_values, vectors = _solve(gram, rows, solver)
  moved = _einsum("...nN,...Ni->...ni", d_gram, vectors)
  d_squares = _einsum("...ni,...ni->...i", vectors, moved)
  coupling = _einsum("...ni,...n->...i", vectors, moved[..., 0])

  eps = jnp.finfo(gram.dtype).eps
  largest = singular_values[..., :1]
  # Below this a singular value is rounding; 0 is a subgradient of it there.
  is_zero = singular_values <= 16 * eps * largest
  d_values = jnp.where(
    is_zero, 0, d_squares / (2 * jnp.where(is_zero, 1, singular_values))
  )
  # 1 / gap, damped: it has its exact value for gaps well above
  # sqrt(eps) lambda_1 and goes to zero, not to infinity, with the gap.
  gap = (largest - singular_values) * (largest + singular_values)
  damped = gap * gap + eps * largest**4
  response = gap / jnp.where(damped > 0, damped, 1)
  d_leading = _einsum("...ni,...i->...n", vectors, coupling * response)
  return (singular_values, vectors[..., 0]), (d_values, d_leading)


def _solve(
  gram: jax.Array, rows: _Rows, solver: Solver
) -> tuple[jax.Array, jax.Array]:
  """Returns sigma `[..., n]`, descending, and v_i as columns `[..., n, n]`."""
  x, scale, constant = rows
  if solver == "svd":
    if constant is not None:
      x = jnp.concatenate([x, constant[..., None]], axis=-1) / 2**0.5
    # Zero coordinates complete the spectrum if there are too few of them.
    missing = max(0, x.shape[-2] - x.shape[-1])
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
    vectors, singular_values, _ = jnp.linalg.svd(x, full_matrices=False)
    return singular_values, vectors
  _, vectors = jnp.linalg.eigh(gram)
  # sqrt(lambda) would lose half of the digits of a small sigma.
  columns = jnp.moveaxis(vectors, -1, 0)
  squares = jnp.stack([_square(_combine(x, scale * v)) for v in columns], -1)
  if constant is not None:
    squares = (squares + _combine(vectors, constant) ** 2) / 2
  singular_values = jnp.sqrt(squares)
  order = jnp.argsort(singular_values, axis=-1, descending=True)
  return (
    jnp.take_along_axis(singular_values, order, axis=-1),
    jnp.take_along_axis(vectors, order[..., None, :], axis=-1),
  )


def _square(x: jax.Array) -> jax.Array:
  return jnp.sum(x * x, axis=-1)


@jax.custom_jvp
def _gram(x: jax.Array) -> jax.Array:
  """Returns `x x^T`; its gradient takes one product, not two."""
  return _einsum("...nd,...Nd->...nN", x, x)


@_gram.defjvp
def _gram_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  half = _einsum("...nd,...Nd->...nN", dx, x)
  return _gram(x), half + jnp.swapaxes(half, -1, -2)
