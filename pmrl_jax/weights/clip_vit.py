"""The visual tower of CLIP: its keys and parameters."""

from pmrl_jax.encoders.clip_vit import ClipVisionTransformer
from pmrl_jax.weights.tables import (
  LINEAR,
  Entry,
  Layout,
  conv_2d,
  dense,
  layer_norm,
  stacked,
)

# Without the batch axis that the parameter has.
_UNBATCHED = Layout(lambda tensor: tensor[None], lambda array: array[0])
_TOKEN = Layout(lambda tensor: tensor[None, None], lambda array: array[0, 0])


def clip_vit_table(module: ClipVisionTransformer) -> list[Entry]:
  """The tower's table, with the keys of OpenAI and OpenCLIP.

  In their files all keys begin with "visual."; see `prefixed`.

  Args:
    module: The tower.
  """
  block = "transformer.resblocks.{layer}"
  attention = f"{block}.attn"
  table = [
    Entry("class_embedding", "embeddings/class_token", _TOKEN),
    Entry("positional_embedding", "embeddings/positions", _UNBATCHED),
    *conv_2d("conv1", "embeddings/projection", bias=False),
    *layer_norm("ln_pre", "first_norm"),
    *stacked(
      [
        *layer_norm(f"{block}.ln_1", "blocks/attention_norm"),
        Entry(f"{attention}.in_proj_weight", "blocks/qkv/kernel", LINEAR),
        Entry(f"{attention}.in_proj_bias", "blocks/qkv/bias"),
        *dense(f"{attention}.out_proj", "blocks/attention_out"),
        *layer_norm(f"{block}.ln_2", "blocks/mlp_norm"),
        *dense(f"{block}.mlp.c_fc", "blocks/mlp_in"),
        *dense(f"{block}.mlp.c_proj", "blocks/mlp_out"),
      ],
      module.depth,
    ),
    *layer_norm("ln_post", "norm"),
  ]
  # The projection is stored as the matrix that tokens are multiplied with.
  head = [Entry("proj", "head/kernel")] if module.head_width else []
  return table + head
