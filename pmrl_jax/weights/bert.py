"""BERT's tensors: as PMRL saves them, and in files of bert-base-uncased."""

from collections.abc import Iterable, Mapping

import numpy as np

from pmrl_jax.encoders.bert import Bert
from pmrl_jax.weights.tables import (
  LAYER,
  Constant,
  Entry,
  Line,
  Unused,
  dense,
  layer_norm,
  stacked,
)

_HEAD = "cls.predictions"


def bert_table(module: Bert) -> list[Line]:
  """The table of BERT in the state dict of PMRL, `multimodal_encoder.` apart.

  Args:
    module: Which BERT.

  Returns:
    The table. The decoder of the head is a copy of the word embeddings.
  """
  attentions = {"attention": "attention"}
  if module.cross_attention:
    attentions["crossattention"] = "cross_attention"
  return [
    *_embeddings(module, "bert.embeddings", tied=True),
    *stacked(_layer("bert.encoder.layer", attentions), module.depth),
    *_head(),
  ]


def bert_base_table(module: Bert, keys: Iterable[str]) -> list[Line]:
  """The table of a file of BERT as its authors and others publish it.

  Such a file has no cross-attention, and may have a pooler and a classifier
  of pairs of sentences, for which the model has no use. Files differ in the
  prefix `bert.`, in whether they hold the masked-word head, and in the names
  of LayerNorm's parameters; the keys tell.

  Args:
    module: Which BERT.
    keys: All keys of the file.

  Returns:
    The table.
  """
  keys = list(keys)
  prefix = "bert." if any(key.startswith("bert.") for key in keys) else ""
  has_head = any(key.startswith(f"{_HEAD}.") for key in keys)
  layer = _layer(f"{prefix}encoder.layer", {"attention": "attention"})
  table: list[Line] = [
    *_embeddings(module, f"{prefix}embeddings", tied=has_head),
    *stacked(layer, module.depth),
    *(_head() if has_head else []),
    Unused(f"{prefix}pooler.*"),
    Unused("cls.seq_relationship.*"),
  ]
  if any(key.endswith(".LayerNorm.gamma") for key in keys):
    return [_with_old_names(line) for line in table]
  return table


def _embeddings(module: Bert, key: str, *, tied: bool) -> list[Line]:
  positions = np.arange(module.max_length, dtype=np.int64)[None]
  return [
    Entry(
      f"{key}.word_embeddings.weight",
      "word_embeddings",
      copies=(f"{_HEAD}.decoder.weight",) if tied else (),
    ),
    Entry(f"{key}.position_embeddings.weight", "position_embeddings"),
    Entry(f"{key}.token_type_embeddings.weight", "token_type_embeddings"),
    *layer_norm(f"{key}.LayerNorm", "embedding_norm"),
    Constant(f"{key}.position_ids", positions),
  ]


def _layer(key: str, attentions: Mapping[str, str]) -> list[Entry]:
  """One layer; `attentions` are `{part of the key: part of the path}`."""
  key, entries = f"{key}.{LAYER}", []
  for theirs, ours in attentions.items():
    source, target = f"{key}.{theirs}", f"blocks/{ours}"
    for name in ("query", "key", "value"):
      entries += dense(f"{source}.self.{name}", f"{target}/{name}")
    entries += dense(f"{source}.output.dense", f"{target}/out")
    entries += layer_norm(f"{source}.output.LayerNorm", f"{target}/norm")
  return [
    *entries,
    *dense(f"{key}.intermediate.dense", "blocks/mlp_in"),
    *dense(f"{key}.output.dense", "blocks/mlp_out"),
    *layer_norm(f"{key}.output.LayerNorm", "blocks/mlp_norm"),
  ]


def _head() -> list[Entry]:
  """The masked-word head, apart from the decoder's weight."""
  return [
    Entry(
      f"{_HEAD}.bias", "predictions/bias", copies=(f"{_HEAD}.decoder.bias",)
    ),
    *dense(f"{_HEAD}.transform.dense", "predictions/dense"),
    *layer_norm(f"{_HEAD}.transform.LayerNorm", "predictions/norm"),
  ]


def _with_old_names(line: Line) -> Line:
  """The names of LayerNorm's parameters in the oldest files."""
  key = line.key.replace(".LayerNorm.weight", ".LayerNorm.gamma")
  return line._replace(key=key.replace(".LayerNorm.bias", ".LayerNorm.beta"))
