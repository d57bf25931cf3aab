"""The published model, of parts that serve any modalities."""

from pmrl_jax.encoders.published.modalities import (
  PUBLISHED_FUSIONS,
  PUBLISHED_MODALITIES,
  Encoded,
  Modality,
  task_modalities,
)
from pmrl_jax.encoders.published.model import PMRLModel

__all__ = [
  "PUBLISHED_FUSIONS",
  "PUBLISHED_MODALITIES",
  "Encoded",
  "Modality",
  "PMRLModel",
  "task_modalities",
]
