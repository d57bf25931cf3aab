"""Losses that align any number of modalities; they need jax alone.

Every loss is a pure function of stacked embeddings `[batch, modality, dim]`
and works under `jit`, `grad`, `vmap` and sharding. Embeddings are normalised
to unit length inside (unless `normalize=False`), and everything is computed in
float32, or in float64 if that is what comes in.

Dimension letters, in docstrings and einsum strings of the whole library:

    b  batch            n  modality         d  dim (embedding)
    l  tokens           h w c  image        t f  spectrogram

A capital letter is a second walk along the same axis: `bd,Bd->bB` compares
every instance with every instance. An ellipsis stands for leading axes that
a function does not look at.
"""

from pmrl_jax.losses._contrastive import instance_contrastive_loss
from pmrl_jax.losses._pmrl import (
  PUBLISHED,
  PMRLLoss,
  alignment_loss,
  pmrl_loss,
)
from pmrl_jax.losses._spectrum import Spectrum, singular_spectrum

__all__ = [
  "PUBLISHED",
  "PMRLLoss",
  "Spectrum",
  "alignment_loss",
  "instance_contrastive_loss",
  "pmrl_loss",
  "singular_spectrum",
]
