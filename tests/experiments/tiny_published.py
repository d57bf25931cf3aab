"""What makes the published model as small as its parts allow."""

# Changes of a config, by key: what is read of each instance.
TINY_INPUTS = {
  "data.inputs.text.length": 8,
  "data.inputs.subtitle.length": 8,
  "data.inputs.vision.resolution": 28,
  "data.inputs.audio.num_rows": 64,
}


def tiny_model(*, depth: int) -> dict[str, int]:
  """Changes of a config, by key.

  Args:
    depth: Of each encoder.
  """
  sizes = {"width": 16, "depth": depth, "num_heads": 2, "mlp_width": 16}
  return {
    "model.dim": 8,
    "model.width": 16,
    "model.encoders.vision.image_size": 28,
    "model.encoders.audio.patch_width": 8,
    "model.encoders.audio.conv_kernel": 4,
    "model.encoders.audio.conv_groups": 2,
    "model.encoders.text.max_length": 16,
    **{
      f"model.encoders.{name}.{field}": value
      for name in ("text", "vision", "audio")
      for field, value in sizes.items()
    },
  }
