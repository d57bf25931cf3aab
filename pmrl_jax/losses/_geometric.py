"""Volume and area: how far an anchor is from the span of the other modalities.

Cicchetti, Grassucci, Sigillo, Comminiello, Gramian Multimodal Representation
Learning and Alignment, arXiv 2412.11959; Cicchetti, Grassucci, Comminiello, A
TRIANGLE Enables Multimodal Alignment Beyond Cosine Similarity, arXiv
2509.24734.

How both are computed: `_figures`.
"""

from typing import Any, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from pmrl_jax.losses._checks import (
  check_anchor,
  check_choice,
  check_contrast,
  check_embeddings,
)
from pmrl_jax.losses._cross_entropy import Positives, Target
from pmrl_jax.losses._embeddings import as_arrays, prepare
from pmrl_jax.losses._figures import (
  Figure,
  along,
  contrast_figures,
  direction,
  span,
  square,
)
from pmrl_jax.losses._sums import Route


def volume_contrastive_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  anchor: int = 0,
  positives: Positives = "own",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Makes the modalities of an instance span a small volume (GRAM).

  With the anchor a_i of instance i, the other modalities (media) M_j of
  instance j, and the volume of the parallelotope that they span together,

      V(i, j) = sqrt(det Gram(a_i, M_j)) = V(M_j) * distance(a_i, span M_j)

  the loss of instance i is

      -1/2 log( exp(-V(i, i) / tau) / sum_j exp(-V(i, j) / tau) )
      -1/2 log( exp(-V(i, i) / tau) / sum_j exp(-V(j, i) / tau) )

  Unit embeddings have volumes from 0 (linearly dependent) to 1 (orthogonal).
  A volume does not change when an embedding becomes its opposite, and is zero
  as soon as two modalities are equal, whatever the others are.

  The base V(M_j) and an orthonormal basis come from a Gram-Schmidt process,
  the distance from |a|^2 minus the squared products with that basis. Where
  rounding hides it, a length counts as zero, with zero gradient: an edge of
  the base below 4 eps of its embedding's length (5e-7 in float32), a distance
  below sqrt(4 eps) of the anchor's (7e-4).

  Differs from the authors' code: any number of modalities up to `dim`, of
  which any may be absent (one that is multiplies the base by 1, as a row of the
  identity in the Gram matrix); the gradient is finite, where theirs is that of
  sqrt(|det|), infinite or NaN at a volume of zero; it also reaches the
  embeddings that serve as negatives, which they gather without gradient; and
  instances with the same id are no negatives. They smooth labels by 0.1 and
  learn the temperature from 0.07 on.

  Args:
    embeddings: `[batch, modality, dim]`, any floating dtype; no more
      modalities than dimensions.
    temperature: divides the volumes; a positive scalar.
    anchor: index of the anchor modality.
    positives: `"own"`, or `"ids"`, see `pairwise_contrastive_loss`.
    where: `[batch, modality]` bool, which modalities are present; None: all.
      The content of an absent one, NaN included, never matters. An instance
      takes part, as positive and as negative, if it has the anchor and one
      more modality. Fewer media leave a larger volume.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether embeddings are divided by their length first.
    label_smoothing: share of the target, from 0 to below 1, that is spread
      evenly over positives and negatives.
    block_size: see `pmrl_loss`, as are `axis_name`, `ring` and `precision`.
    axis_name: name of the mapped axis that the batch is split over.
    ring: whether keys travel around that axis instead of being gathered.
    precision: of the products; less than `"highest"` blurs small distances.

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance that does not take
    part.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a number is out of range.

  Reference:
    Cicchetti, Grassucci, Sigillo, Comminiello, Gramian Multimodal
    Representation Learning and Alignment, arXiv 2412.11959.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import volume_contrastive_loss
  >>> x = jnp.eye(4)[jnp.array([[0, 0, 1], [2, 2, 3]])]
  >>> loss = volume_contrastive_loss(x, temperature=0.5)
  >>> [round(float(value), 4) for value in loss]  # log(1 + exp(-2))
  [0.1269, 0.1269]
  """
  z, where, ids = _checked(
    embeddings,
    where,
    ids,
    temperature=temperature,
    positives=positives,
    normalize=normalize,
    label_smoothing=label_smoothing,
    route=Route(block_size, axis_name, ring),
  )
  num_modalities, dim = z.shape[1:]
  if num_modalities > dim:
    raise ValueError(
      "`embeddings` [batch, modality, dim] must have at least as many "
      f"dimensions as modalities, got shape {z.shape}: a volume would always "
      "be zero; use wider embeddings or fewer modalities."
    )
  anchor = check_anchor(anchor, num_modalities)
  media = [n for n in range(num_modalities) if n != anchor]
  present = None if where is None else where[:, jnp.array(media)]
  basis, volume = span([z[:, n] for n in media], present)
  if where is not None and present is not None:
    where = where[:, anchor] & jnp.any(present, axis=1)
  return contrast_figures(
    Figure(z[:, anchor], basis, None, volume),
    temperature=temperature,
    where=where,
    ids=ids,
    target=Target(label_smoothing, positives),
    route=Route(block_size, axis_name, ring),
    precision=precision,
  )


def area_contrastive_loss(
  embeddings: jax.Array,
  *,
  temperature: ArrayLike,
  anchor: int = 0,
  positives: Positives = "own",
  where: jax.Array | None = None,
  ids: jax.Array | None = None,
  normalize: bool = True,
  label_smoothing: float = 0.0,
  block_size: int | None = None,
  axis_name: Any = None,
  ring: bool = False,
  precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
  """Makes the three modalities of an instance span a small triangle.

  With the anchor a_i of instance i, the other modalities v_j and w_j of
  instance j, and the area of the triangle whose corners they are,

      A(i, j) = 1/2 sqrt(|u|^2 |t|^2 - (u . t)^2),  u = a_i - v_j, t = a_i - w_j
              = 1/2 |v_j - w_j| * distance(a_i, the line through v_j and w_j)

  the loss of instance i is

      -1/2 log( exp(-A(i, i) / tau) / sum_j exp(-A(i, j) / tau) )
      -1/2 log( exp(-A(i, i) / tau) / sum_j exp(-A(j, i) / tau) )

  Unit embeddings have areas from 0 (two are equal) to 3 sqrt(3) / 4. An area
  is also small where only v and w agree.

  Computed as the second form, from dot products. Where rounding hides it, a
  length counts as zero, with zero gradient: of the edge, below 4 eps
  sqrt(|v|^2 + |w|^2) (7e-7 in float32); of the distance, below
  sqrt(4 eps (|a|^2 + |p|^2)), with the line's point p nearest to the origin
  (1e-3 at most).

  Differs from the authors' code: the area has the square root of their paper,
  which their code leaves out; no differences `[batch, batch, dim]` are ever
  formed; instances without all three modalities are left out; the gradient is
  finite, and also reaches the embeddings that serve as negatives, which they
  gather without gradient; and instances with the same id are no negatives.
  They smooth labels by 0.1 and learn the temperature from 0.07 on. The cosine
  regulariser of their paper, which their code lacks too, can be had by adding
  `pairwise_contrastive_loss`.

  Args:
    embeddings: `[batch, 3, dim]`, any floating dtype.
    temperature: divides the areas; a positive scalar.
    anchor: index of the anchor modality.
    positives: `"own"`, or `"ids"`, see `pairwise_contrastive_loss`.
    where: `[batch, 3]` bool, which modalities are present; None: all. The
      content of an absent one, NaN included, never matters. An instance takes
      part, as positive and as negative, if it has all three.
    ids: `[batch]` integers; instances with the same id are never each other's
      negatives. None: all differ.
    normalize: whether embeddings are divided by their length first.
    label_smoothing: share of the target, from 0 to below 1, that is spread
      evenly over positives and negatives.
    block_size: see `pmrl_loss`, as are `axis_name`, `ring` and `precision`.
    axis_name: name of the mapped axis that the batch is split over.
    ring: whether keys travel around that axis instead of being gathered.
    precision: of the products; less than `"highest"` blurs small distances.

  Returns:
    `[batch]` losses, float32 or wider; 0 for an instance that does not take
    part.

  Raises:
    TypeError: if a dtype is not floating (embeddings), bool (where) or
      integer (ids).
    ValueError: if a shape, a choice or a number is out of range.

  Reference:
    Cicchetti, Grassucci, Comminiello, A TRIANGLE Enables Multimodal Alignment
    Beyond Cosine Similarity, arXiv 2509.24734.

  >>> import jax.numpy as jnp
  >>> from pmrl_jax.losses import area_contrastive_loss
  >>> x = jnp.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
  >>> loss = area_contrastive_loss(jnp.concatenate([x, -x]), temperature=0.5)
  >>> [round(float(value), 4) for value in loss]  # log(1 + exp(-2))
  [0.1269, 0.1269]
  """
  z, where, ids = _checked(
    embeddings,
    where,
    ids,
    temperature=temperature,
    positives=positives,
    normalize=normalize,
    label_smoothing=label_smoothing,
    route=Route(block_size, axis_name, ring),
  )
  if z.shape[1] != 3:
    raise ValueError(
      "`embeddings` must hold exactly three modalities along axis 1, the "
      f"corners of a triangle, got shape {z.shape}; choose three of them, or "
      "use `volume_contrastive_loss`."
    )
  anchor = check_anchor(anchor, 3)
  v, w = (z[:, n] for n in range(3) if n != anchor)
  edge, length = direction(w - v, square(v) + square(w))
  # The point of the line through v and w that is nearest to the origin.
  foot = v - along(v, edge[:, None])
  return contrast_figures(
    Figure(z[:, anchor], [edge], foot, length / 2),
    temperature=temperature,
    where=None if where is None else jnp.all(where, axis=1),
    ids=ids,
    target=Target(label_smoothing, positives),
    route=Route(block_size, axis_name, ring),
    precision=precision,
  )


def _checked(
  embeddings: jax.Array,
  where: jax.Array | None,
  ids: jax.Array | None,
  *,
  temperature: ArrayLike,
  positives: Positives,
  normalize: bool,
  label_smoothing: float,
  route: Route,
) -> tuple[jax.Array, jax.Array | None, jax.Array | None]:
  """Returns prepared embeddings, and the masks as arrays or None."""
  embeddings, where, ids = as_arrays(embeddings, where, ids)
  check_embeddings(embeddings, where)
  check_choice(positives, "positives", get_args(Positives))
  check_contrast(
    route,
    embeddings.shape[0],
    ids=ids,
    temperature=temperature,
    label_smoothing=label_smoothing,
  )
  return prepare(embeddings, where, normalize)[0], where, ids
