"""Encoders: one input becomes tokens, the tokens become one vector.

Every encoder is a thin `flax.linen` module that is called as
`encoder(inputs, train=...)` and returns `[batch, width]`. `MultimodalEncoder`
holds any dictionary of them and stacks their projections into embeddings
`[batch, modality, dim]`. Any linen module with that call signature can take
part: nothing here is wired to particular modalities.

Random streams: `dropout` (dropout and masking); needed only when
`train=True`.
"""

from pmrl_jax.encoders.audio import SpectrogramTransformer, log_mel_spectrogram
from pmrl_jax.encoders.multimodal import MultimodalEncoder
from pmrl_jax.encoders.tabular import TableEncoder, TrajectoryTransformer
from pmrl_jax.encoders.text import CharacterTransformer
from pmrl_jax.encoders.transformer import (
  Transformer,
  TransformerEncoder,
  masked_mean,
)
from pmrl_jax.encoders.vision import VisionTransformer

__all__ = [
  "CharacterTransformer",
  "MultimodalEncoder",
  "SpectrogramTransformer",
  "TableEncoder",
  "TrajectoryTransformer",
  "Transformer",
  "TransformerEncoder",
  "VisionTransformer",
  "log_mel_spectrogram",
  "masked_mean",
]
