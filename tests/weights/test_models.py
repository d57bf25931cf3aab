"""The modules of published checkpoints are told by their shapes alone."""

import pytest

from pmrl_jax import encoders
from pmrl_jax.weights.models import MODELS, parameters
from pmrl_jax.weights.places import to_tensors

FULL_SIZE = {
  "ast": ("ast", encoders.AudioSpectrogramTransformer()),
  "beats": ("beats", encoders.Beats()),
  "bert": ("bert", encoders.Bert()),
  "bert without cross-attention": (
    "bert",
    encoders.Bert(cross_attention=False),
  ),
  **{
    name: ("clip_vit", encoders.ClipVisionTransformer(**fields))
    for name, fields in encoders.CLIP_VIT.items()
  },
  **{
    name: ("eva", encoders.EvaVisionTransformer(**fields))
    for name, fields in encoders.EVA_CLIP.items()
  },
  "pmrl": (
    "pmrl",
    encoders.PMRLModel(
      {
        "text": encoders.Bert(),
        "vision": encoders.EvaVisionTransformer(head_width=0),
        "audio": encoders.Beats(),
      }
    ),
  ),
}


@pytest.mark.parametrize("case", FULL_SIZE)
def test_a_published_module_is_known_by_its_shapes(case):
  name, module = FULL_SIZE[case]
  model = MODELS[name]
  tensors = to_tensors(parameters(model, module), model.table(module, []))
  shapes = {key: tensor.shape for key, tensor in tensors.items()}
  assert model.build(model.infer(shapes, {})) == module


def test_settings_beside_a_checkpoint_count():
  module = encoders.Bert(width=32, num_heads=4, depth=1, vocabulary_size=5)
  model = MODELS["bert"]
  tensors = to_tensors(parameters(model, module), model.table(module, []))
  shapes = {key: tensor.shape for key, tensor in tensors.items()}
  with pytest.raises(ValueError, match="of width 32 is not known; give the f"):
    model.build(model.infer(shapes, {}))
  fields = model.infer(shapes, {"num_attention_heads": 4})
  assert model.build(fields) == module


def test_fields_of_the_whole_model_reach_its_parts():
  fields = {
    "text.depth": 1, "text.num_heads": 2, "vision.num_heads": 4,
    "audio.num_heads": 8, "vision_clips": 3, "dim": 7,
    "param_dtype": "bfloat16",
  }  # fmt: skip
  model = MODELS["pmrl"].build(fields)
  assert model.dim == 7 and model.modalities["vision"].num_clips == 3
  assert model.encoders["text"].depth == 1
  assert model.encoders["audio"].param_dtype == "bfloat16"
  for wrong in ("speech.depth", "depth"):
    with pytest.raises(ValueError, match=f"has no fields .'{wrong}'"):
      MODELS["pmrl"].build({**fields, wrong: 1})
  with pytest.raises(ValueError, match=r"give the field vision\.num_heads"):
    MODELS["pmrl"].build({"text.num_heads": 2})
