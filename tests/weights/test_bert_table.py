"""BERT's tables: keys, shapes, both directions, and files of others."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import Bert
from pmrl_jax.weights.bert import bert_base_table, bert_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "text_bert.npz"


@pytest.fixture(scope="module")
def tensors():
  with np.load(PATH, allow_pickle=False) as file:
    return {
      key.removeprefix("param/"): file[key]
      for key in file
      if key.startswith("param/")
    }


@pytest.fixture(scope="module")
def module():
  with np.load(PATH, allow_pickle=False) as file:
    config = json.loads(bytes(file["cfg/json"]))
  return Bert(
    vocabulary_size=config["vocab_size"],
    width=config["hidden_size"],
    depth=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    mlp_width=config["intermediate_size"],
    max_length=config["max_position_embeddings"],
  )


def shapes(module):
  ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
  variables = jax.eval_shape(
    lambda key, ids: module.init(key, ids, train=False), jax.random.key(0), ids
  )
  return variables["params"]


def full_size_shapes():
  """What the published files hold, key by key."""
  linear = {"weight": (768, 768), "bias": (768,)}
  norm = {"weight": (768,), "bias": (768,)}
  attention = {
    f"{part}.{name}": shape
    for part in ("self.query", "self.key", "self.value", "output.dense")
    for name, shape in linear.items()
  } | {f"output.LayerNorm.{name}": shape for name, shape in norm.items()}
  expected = {
    "bert.embeddings.position_ids": (1, 512),
    "bert.embeddings.word_embeddings.weight": (30522, 768),
    "bert.embeddings.position_embeddings.weight": (512, 768),
    "bert.embeddings.token_type_embeddings.weight": (2, 768),
    "bert.embeddings.LayerNorm.weight": (768,),
    "bert.embeddings.LayerNorm.bias": (768,),
    "cls.predictions.bias": (30522,),
    "cls.predictions.decoder.weight": (30522, 768),
    "cls.predictions.decoder.bias": (30522,),
    "cls.predictions.transform.dense.weight": (768, 768),
    "cls.predictions.transform.dense.bias": (768,),
    "cls.predictions.transform.LayerNorm.weight": (768,),
    "cls.predictions.transform.LayerNorm.bias": (768,),
  }
  for layer in range(12):
    layer = f"bert.encoder.layer.{layer}"
    for name, shape in attention.items():
      expected[f"{layer}.attention.{name}"] = shape
      expected[f"{layer}.crossattention.{name}"] = shape
    expected |= {
      f"{layer}.intermediate.dense.weight": (3072, 768),
      f"{layer}.intermediate.dense.bias": (3072,),
      f"{layer}.output.dense.weight": (768, 3072),
      f"{layer}.output.dense.bias": (768,),
      f"{layer}.output.LayerNorm.weight": (768,),
      f"{layer}.output.LayerNorm.bias": (768,),
    }
  return expected


def test_the_full_model_has_the_published_keys_and_shapes():
  module = Bert()
  specs = shapes(module)
  # Views of one zero: no memory.
  params = jax.tree.map(
    lambda spec: np.broadcast_to(np.float32(0), spec.shape), specs
  )
  written = {
    key: array.shape for key, array in to_state_dict(params, bert_table(module))
  }
  assert written == full_size_shapes()
  assert sum(spec.size for spec in jax.tree.leaves(specs)) == 137_881_146


def test_a_state_dict_comes_back_as_it_was(module, tensors):
  table = bert_table(module)
  loaded = to_params(tensors, table)
  assert loaded.missing == loaded.unexpected == loaded.unused == []
  assert jax.tree.map(np.shape, loaded.params) == jax.tree.map(
    lambda spec: spec.shape, shapes(module)
  )
  written = dict(to_state_dict(loaded.params, table))
  assert written.keys() == tensors.keys()
  for key, array in tensors.items():
    np.testing.assert_array_equal(written[key], array, strict="ids" not in key)
  assert written["bert.embeddings.position_ids"].dtype == np.int64


def test_any_of_the_tied_tensors_is_enough(module, tensors):
  table = bert_table(module)
  expected = to_params(tensors, table).params
  fewer = dict(tensors)
  del fewer["bert.embeddings.word_embeddings.weight"]
  del fewer["cls.predictions.decoder.bias"]
  del fewer["bert.embeddings.position_ids"]
  loaded = to_params(fewer, table)
  assert not loaded.missing
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
  del fewer["cls.predictions.decoder.weight"]
  missing = to_params(fewer, table).missing
  assert missing == ["bert.embeddings.word_embeddings.weight"]


def test_what_contradicts_itself_is_an_error(module, tensors):
  table = bert_table(module)
  untied = tensors["cls.predictions.decoder.weight"] + 1
  with pytest.raises(ValueError, match="should be a copy"):
    to_params(tensors | {"cls.predictions.decoder.weight": untied}, table)
  longer = {"bert.embeddings.position_ids": np.arange(90)[None]}
  with pytest.raises(ValueError, match=r"\[1, 80\], got.*\[1, 90\].*sizes"):
    to_params(tensors | longer, table)


def base_file(tensors, *, prefix, old_names, head):
  """The golden's tensors as a file of plain BERT would have them."""
  file = {}
  for key, array in tensors.items():
    if "crossattention" in key or "decoder.bias" in key:
      continue
    if key.startswith("cls.") and not head:
      continue
    if old_names:
      key = key.replace("LayerNorm.weight", "LayerNorm.gamma")
      key = key.replace("LayerNorm.bias", "LayerNorm.beta")
    file[key if prefix else key.removeprefix("bert.")] = array
  file["bert.pooler.dense.weight" if prefix else "pooler.dense.weight"] = 0
  if head:
    file["cls.seq_relationship.weight"] = 0
  return file


@pytest.mark.parametrize(
  ("prefix", "old_names", "head"),
  [(True, True, True), (True, False, True), (False, False, False)],
)
def test_files_of_plain_bert_fill_all_but_the_cross_attention(
  module, tensors, prefix, old_names, head
):
  file = base_file(tensors, prefix=prefix, old_names=old_names, head=head)
  loaded = to_params(file, bert_base_table(module, file))
  assert loaded.missing == loaded.unexpected == []
  assert len(loaded.unused) == 1 + head
  expected = to_params(tensors, bert_table(module)).params
  del expected["blocks"]["cross_attention"]
  if not head:
    del expected["predictions"]
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)


def test_other_tensors_of_a_plain_file_are_unexpected(module, tensors):
  file = base_file(tensors, prefix=True, old_names=False, head=True)
  file["bert.encoder.layer.3.output.dense.bias"] = np.zeros(32)
  del file["bert.encoder.layer.1.output.dense.bias"]
  loaded = to_params(file, bert_base_table(module, file))
  assert loaded.unexpected == ["bert.encoder.layer.3.output.dense.bias"]
  assert loaded.missing == ["bert.encoder.layer.1.output.dense.bias"]
  # Nor is the parameter there with one layer of garbage.
  assert "bias" not in loaded.params["blocks"]["mlp_out"]


def test_a_bert_without_cross_attention_has_a_table_of_its_own(module, tensors):
  plain = module.clone(cross_attention=False)
  loaded = to_params(tensors, bert_table(plain))
  assert not loaded.missing
  assert len(loaded.unexpected) == 30
  assert jax.tree.structure(loaded.params) == jax.tree.structure(shapes(plain))
