"""The checkpoint of the published model: every key, both ways."""

import jax
import jax.numpy as jnp
import numpy as np

from pmrl_jax import encoders
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.state_dict import to_params, to_state_dict


def test_state_dict_to_parameters_and_back_is_the_same(published):
  table = published_table(published.model)
  loaded = to_params(published.tensors, table)
  written = dict(to_state_dict(loaded.params, table))
  assert not loaded.missing and not loaded.unexpected
  assert set(published.tensors) - set(written) == set(loaded.unused)
  for key, array in written.items():
    np.testing.assert_array_equal(array, published.tensors[key])


def test_unused_tensors_are_known_and_no_parameters(published):
  loaded = to_params(published.tensors, published_table(published.model))
  parts = {key.split(".")[1] for key in loaded.unused}
  assert parts <= {"text", "logit_scale", "visual", "bert"}
  assert any(key.startswith("vision_encoder.text.") for key in loaded.unused)


def test_the_table_fills_exactly_the_parameters_of_the_model(published):
  fresh = jax.eval_shape(
    published.model.init, jax.random.key(0), published.inputs
  )["params"]
  shapes = jax.tree.map(jnp.shape, fresh)
  assert shapes == jax.tree.map(jnp.shape, published.params)


def test_the_full_size_model_has_the_published_shapes():
  model = encoders.PMRLModel(
    {
      "text": encoders.Bert(),
      "vision": encoders.EvaVisionTransformer(head_width=0),
      "audio": encoders.Beats(),
    }
  )
  inputs = {
    "text": jnp.ones((2, 40), int),
    "vision": jnp.zeros((2, 2, 224, 224, 3)),
    "audio": jnp.zeros((2, 1, 1024, 64)),
    "subtitle": jnp.ones((2, 70), int),
  }
  params = jax.eval_shape(model.init, jax.random.key(0), inputs)["params"]
  zeros = jax.tree.map(lambda x: np.broadcast_to(0.0, x.shape), params)
  written = dict(to_state_dict(zeros, published_table(model)))
  assert len(written) == len({*written})
  expected = {
    "contra_head_t.linear.weight": (512, 768),
    "contra_head_s.linear.weight": (512, 768),
    "contra_head_a.linear.weight": (512, 768),
    "contra_head_v.linear.weight": (512, 1408),
    "contra_head_va.weight": (512, 2176),
    "contra_head_va.bias": (512,),
    "contra_head_vs.weight": (512, 2176),
    "contra_head_vs.bias": (512,),
    "contra_head_vas.weight": (512, 2944),
    "contra_head_vas.bias": (512,),
    "contra_temp": (),
    "itm_head.linear1.weight": (768, 768),
    "itm_head.linear1.bias": (768,),
    "itm_head.layernorm.weight": (768,),
    "itm_head.layernorm.bias": (768,),
    "itm_head.linear2.weight": (2, 768),
    "itm_head.linear2.bias": (2,),
    "vision_frame_embedding": (1, 2, 768),
    "audio_frame_embedding": (1, 1, 768),
  }
  for name, width in (("vision", 1408), ("audio", 768), ("subtitle", 768)):
    expected[f"{name}_type_embeddings"] = (1, 1, 768)
    adapter = f"hidden_trans_{name}_multimodal"
    expected[f"{adapter}.0.weight"] = (768, width)
    for key in ("0.bias", "1.weight", "1.bias"):
      expected[f"{adapter}.{key}"] = (768,)
  top_level = {
    key: array.shape
    for key, array in written.items()
    if key.split("_encoder.")[0] not in ("vision", "audio", "multimodal")
  }
  assert top_level == expected
