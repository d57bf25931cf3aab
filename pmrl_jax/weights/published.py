"""The published model: what is what in its checkpoints, and in VAST's."""

from collections.abc import Mapping, Sequence

import flax.linen as nn

from pmrl_jax.encoders import Beats, Bert, EvaVisionTransformer, PMRLModel
from pmrl_jax.weights.beats import beats_table
from pmrl_jax.weights.bert import bert_table
from pmrl_jax.weights.eva import eva_table
from pmrl_jax.weights.tables import (
  Entry,
  Layout,
  Line,
  Unused,
  dense,
  layer_norm,
  prefixed,
)

# What checkpoints hold and the model has no use for: the text tower of
# EVA-CLIP and its logit scale, the head of its vision tower, and the head of a
# modality that GRAM adds.
UNUSED = (
  Unused("vision_encoder.text.*"),
  Unused("vision_encoder.logit_scale"),
  Unused("contra_head_d.linear.weight"),
)

# [1, clip, width] -> [clip, width], and [1, 1, width] -> [width].
_CLIPS = Layout(lambda tensor: tensor[0], lambda array: array[None])
_TYPE = Layout(lambda tensor: tensor[0, 0], lambda array: array[None, None])


def published_table(
  model: PMRLModel, tables: Mapping[str, Sequence[Line]] | None = None
) -> list[Line]:
  """What is what in a state dict of the published model.

  The keys are the official ones. Those of further modalities and encoders
  follow the same rules: `contra_head_d` of a modality whose first letter is
  d and of no other, else `contra_head_depth`, and so on.

  Args:
    model: The model; its description says which tensors there are.
    tables: `{encoder: table}` of encoders that have none here, with keys as
      they are below `<encoder>_encoder.`.

  Returns:
    The table.

  Raises:
    ValueError: If an encoder has no table.
  """
  text = model.modalities[model.caption].encoder
  entries: list[Line] = []
  for name, encoder in model.encoders.items():
    if tables is not None and name in tables:
      table = list(tables[name])
    else:
      table = _encoder_table(name, encoder)
    key = "multimodal_encoder." if name == text else f"{name}_encoder."
    entries += prefixed(table, key=key, path=f"encoders_{name}/")
  entries.append(Entry("contra_temp", "temperature"))
  for name in model.modalities:
    entries += dense(
      f"contra_head_{_short(name, model)}.linear", f"heads_{name}", bias=False
    )
  for names in model.fusions:
    short = "".join(_short(name, model) for name in names)
    entries += dense(f"contra_head_{short}", f"fused_heads_{'_'.join(names)}")
  for name, modality in model.modalities.items():
    if modality.conditions:
      entries += _adapter(name, modality.num_clips is not None)
  entries += [
    *dense("itm_head.linear1", "matching_head/hidden"),
    *layer_norm("itm_head.layernorm", "matching_head/norm"),
    *dense("itm_head.linear2", "matching_head/output"),
  ]
  # A modality of this model may have one of those names.
  used = {entry.key for entry in entries}
  return entries + [line for line in UNUSED if line.key not in used]


def _encoder_table(name: str, encoder: nn.Module) -> list[Line]:
  if isinstance(encoder, Bert):
    return bert_table(encoder)
  if isinstance(encoder, Beats):
    return [*beats_table(encoder)]
  if isinstance(encoder, EvaVisionTransformer):
    head = [] if encoder.head_width else [Unused("visual.head.*")]
    return prefixed(eva_table(encoder), key="visual.") + head
  raise ValueError(
    f"there are tables for Bert, Beats and EvaVisionTransformer, and {name!r} "
    f"is a {type(encoder).__name__}; hand in tables={{{name!r}: ...}}, with an "
    "entry for every parameter"
  )


def _adapter(name: str, has_clips: bool) -> list[Line]:
  path = f"adapters_{name}"
  clips = Entry(f"{name}_frame_embedding", f"{path}/clip_embedding", _CLIPS)
  return [
    *dense(f"hidden_trans_{name}_multimodal.0", f"{path}/projection"),
    *layer_norm(f"hidden_trans_{name}_multimodal.1", f"{path}/norm"),
    *([clips] if has_clips else []),
    Entry(f"{name}_type_embeddings", f"{path}/type_embedding", _TYPE),
  ]


def _short(name: str, model: PMRLModel) -> str:
  """The first letter, if that is enough to tell modalities apart."""
  alike = [other for other in model.modalities if other[0] == name[0]]
  return name[0] if len(alike) == 1 else name
