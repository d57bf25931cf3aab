"""The losses that are compared, and the temperatures that each may try.

A new loss is a new entry of `CONTENDERS`. Every grid has as many temperatures
as the others, so that no loss is favoured by more attempts.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pmrl_jax import losses


class Extras(NamedTuple):
  """What a loss may use besides the embeddings."""

  temperature: jax.Array  # float32 [], fixed during a training
  free: jax.Array  # float32 [], trained along from 0
  key: jax.Array  # a new one every step


Loss = Callable[[jax.Array, Extras], jax.Array]  # embeddings, extras -> []


class Contender(NamedTuple):
  """A loss in the comparison."""

  words: str  # one line
  loss: Loss
  temperatures: tuple[float, ...]  # ascending
  num_modalities: int | None = None  # the only number it is defined for

  def fits(self, num_modalities: int) -> bool:
    """Whether it is defined for so many modalities."""
    return self.num_modalities in (None, num_modalities)


# Where a comparison starts its sigmoid's bias, as its authors do. Adam moves
# a scalar by about the learning rate a step, so it is trained ten times as
# fast as the rest, or it would stay there.
_BIAS, _BIAS_SPEED = -10.0, 10.0


def _pmrl(**arguments: Any) -> Loss:
  """PMRL with the instance temperature left open."""

  def loss(embeddings: jax.Array, extras: Extras) -> jax.Array:
    temperatures = {"instance_temperature": extras.temperature}
    # "gram" gives the values and gradients of "svd", and is faster.
    return losses.pmrl_loss(
      embeddings, **{**arguments, **temperatures, "solver": "gram"}
    ).loss

  return loss


def _mean_of(
  contrastive_loss: Callable[..., jax.Array], **arguments: Any
) -> Loss:
  """The batch mean of a loss that has a temperature and nothing else."""

  def loss(embeddings: jax.Array, extras: Extras) -> jax.Array:
    return jnp.mean(
      contrastive_loss(embeddings, temperature=extras.temperature, **arguments)
    )

  return loss


def _sigmoid(embeddings: jax.Array, extras: Extras) -> jax.Array:
  bias = _BIAS + _BIAS_SPEED * extras.free
  return _mean_of(losses.sigmoid_contrastive_loss, bias=bias)(
    embeddings, extras
  )


def _product(embeddings: jax.Array, extras: Extras) -> jax.Array:
  return _mean_of(losses.product_contrastive_loss, key=extras.key)(
    embeddings, extras
  )


_SHARP = (0.02, 0.05, 0.1, 0.2)
_SOFT = (0.05, 0.1, 0.2, 0.4)
_WIDE = (0.1, 0.3, 1.0, 3.0)

CONTENDERS: dict[str, Contender] = {
  "pmrl_published": Contender(
    "PMRL as published (alignment temperature 0.05)",
    _pmrl(**losses.PUBLISHED),
    _SOFT,
  ),
  "pmrl_published_soft": Contender(
    "PMRL as published, but with alignment temperature 1",
    _pmrl(**{**losses.PUBLISHED, "alignment_temperature": 1.0}),
    _SHARP,
  ),
  "pmrl": Contender(
    "PMRL, the default of this project: consensus, contrast of pairs",
    _pmrl(),
    _SHARP,
  ),
  "pmrl_directions": Contender(
    "PMRL, consensus, contrast of leading directions",
    _pmrl(orientation="consensus", contrast="directions"),
    _SHARP,
  ),
  "pmrl_modalities": Contender(
    "PMRL, consensus, contrast of each modality with all others together",
    _pmrl(orientation="consensus", contrast="modalities"),
    _SHARP,
  ),
  "infonce_pairs": Contender(
    "InfoNCE between all pairs of modalities (CLIP)",
    _mean_of(losses.pairwise_contrastive_loss, pairs="all"),
    _SHARP,
  ),
  "infonce_anchor": Contender(
    "InfoNCE between the first modality and each other one (ImageBind)",
    _mean_of(losses.pairwise_contrastive_loss, pairs="anchor"),
    _SHARP,
  ),
  "sigmoid": Contender(
    "sigmoid decisions over all pairs of modalities (SigLIP), learned bias",
    _sigmoid,
    _SHARP,
  ),
  "volume": Contender(
    "volume that the modalities span (GRAM), the first one as anchor",
    _mean_of(losses.volume_contrastive_loss),
    _SOFT,
  ),
  "area": Contender(
    "area of the triangle of three modalities (TRIANGLE)",
    _mean_of(losses.area_contrastive_loss),
    _SHARP,
    num_modalities=3,
  ),
  "product": Contender(
    "product of all modalities (Symile), shuffled negatives",
    _product,
    _WIDE,
  ),
}


def choose_contenders(names: Sequence[str]) -> dict[str, Contender]:
  """Returns contenders by name.

  Raises:
    ValueError: If a name is unknown, or there is none.
  """
  unknown = [name for name in names if name not in CONTENDERS]
  if unknown or not names or len(set(names)) != len(names):
    raise ValueError(
      f"--losses must be different names among {', '.join(CONTENDERS)}, got "
      f"{', '.join(names) or 'none'}"
    )
  return {name: CONTENDERS[name] for name in names}
