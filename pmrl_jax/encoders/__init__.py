"""Encoders: one input becomes tokens, the tokens become one vector.

Every encoder is a thin `flax.linen` module that is called as
`encoder(inputs, train=...)` and returns `[batch, width]`. `MultimodalEncoder`
holds any dictionary of them and stacks their projections into embeddings
`[batch, modality, dim]`. Any linen module with that call signature can take
part: nothing here is wired to particular modalities.

The large encoders of the published models (`EvaVisionTransformer`,
`ClipVisionTransformer`, `Beats`, `AudioSpectrogramTransformer`, `Bert`) return
all their tokens, `[batch, tokens, width]`; `PMRLModel` holds any of either
kind, pools their tokens, and lets texts look at them.

Derivatives are in reverse mode (`jax.grad`, of any order): linear layers and
LayerNorms write down their own, see `dense` and `layer_norm`. There is no
forward mode (`jax.jvp`).

Random streams: `dropout` (dropout and masking); needed only when
`train=True`.
"""

from pmrl_jax.encoders.ast import AudioSpectrogramTransformer
from pmrl_jax.encoders.audio import SpectrogramTransformer, log_mel_spectrogram
from pmrl_jax.encoders.beats import Beats
from pmrl_jax.encoders.bert import Bert
from pmrl_jax.encoders.clip_vit import CLIP_VIT, ClipVisionTransformer
from pmrl_jax.encoders.eva import EVA_CLIP, EvaVisionTransformer
from pmrl_jax.encoders.multimodal import MultimodalEncoder
from pmrl_jax.encoders.pooled import PooledEncoder
from pmrl_jax.encoders.published import (
  PUBLISHED_FUSIONS,
  PUBLISHED_MODALITIES,
  Encoded,
  Modality,
  PMRLModel,
  task_modalities,
)
from pmrl_jax.encoders.tabular import TableEncoder, TrajectoryTransformer
from pmrl_jax.encoders.text import CharacterTransformer
from pmrl_jax.encoders.transformer import (
  Transformer,
  TransformerEncoder,
  masked_mean,
)
from pmrl_jax.encoders.vision import VisionTransformer

__all__ = [
  "CLIP_VIT",
  "EVA_CLIP",
  "PUBLISHED_FUSIONS",
  "PUBLISHED_MODALITIES",
  "AudioSpectrogramTransformer",
  "Beats",
  "Bert",
  "CharacterTransformer",
  "ClipVisionTransformer",
  "Encoded",
  "EvaVisionTransformer",
  "Modality",
  "MultimodalEncoder",
  "PMRLModel",
  "PooledEncoder",
  "SpectrogramTransformer",
  "TableEncoder",
  "TrajectoryTransformer",
  "Transformer",
  "TransformerEncoder",
  "VisionTransformer",
  "log_mel_spectrogram",
  "masked_mean",
  "task_modalities",
]
