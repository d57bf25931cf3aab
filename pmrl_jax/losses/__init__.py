"""Losses that align any number of modalities; they need jax alone.

Every loss is a pure function of stacked embeddings `[batch, modality, dim]`
and works under `jit`, `grad`, `vmap` and sharding. Embeddings are normalised
to unit length inside (unless `normalize=False`), and everything is computed in
float32, or in float64 if that is what comes in.

Negatives are the other instances of the whole batch, however it is split over
devices. Under `jax.jit` with a sharded batch nothing need be said. Inside
`jax.shard_map` or `jax.pmap` give `axis_name`; `pmrl_loss` is then the loss of
the whole batch on every device, and losses `[batch]`, which are those of the
local instances, are reduced by

    jax.lax.pmean(jnp.mean(losses), axis_name)

Of either, `jax.lax.pmean` of the gradient of replicated parameters is the
gradient that one device would get.

Dimension letters, in docstrings and einsum strings of the whole library:

    b  batch            n  modality         d  dim (embedding)
    l  tokens           h w c  image        t f  spectrogram

A capital letter is a second walk along the same axis: `bd,Bd->bB` compares
every instance with every instance. An ellipsis stands for leading axes that
a function does not look at.
"""

from pmrl_jax.losses._contrastive import (
  instance_contrastive_loss,
  pairwise_contrastive_loss,
)
from pmrl_jax.losses._geometric import (
  area_contrastive_loss,
  volume_contrastive_loss,
)
from pmrl_jax.losses._gradient_cache import gradient_cache
from pmrl_jax.losses._matching import matching_loss, sample_hard_negatives
from pmrl_jax.losses._pmrl import (
  PUBLISHED,
  PMRLLoss,
  alignment_loss,
  pmrl_loss,
)
from pmrl_jax.losses._product import product_contrastive_loss
from pmrl_jax.losses._sigmoid import sigmoid_contrastive_loss
from pmrl_jax.losses._spectrum import Spectrum, singular_spectrum
from pmrl_jax.losses._temperature import bounded_temperature

__all__ = [
  "PUBLISHED",
  "PMRLLoss",
  "Spectrum",
  "alignment_loss",
  "area_contrastive_loss",
  "bounded_temperature",
  "gradient_cache",
  "instance_contrastive_loss",
  "matching_loss",
  "pairwise_contrastive_loss",
  "pmrl_loss",
  "product_contrastive_loss",
  "sample_hard_negatives",
  "sigmoid_contrastive_loss",
  "singular_spectrum",
  "volume_contrastive_loss",
]
