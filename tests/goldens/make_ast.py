"""Makes ast.npz: the Audio Spectrogram Transformer of `transformers`.

Needs numpy, torch, transformers and safetensors:

  python tests/goldens/make_ast.py tests/goldens/ast.npz

The model is tiny and every tensor is random, so that no bias, norm or token
is left at zero or one. Keys of the result are those of tests/goldens/README.md
and those of published files, whatever the names inside the library are.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import ASTConfig, ASTModel

SWITCHES = {
  "hidden_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "intermediate_size": 24,
  "patch_size": 8,
  # All four sizes differ, so that no two axes can be mistaken.
  "time_stride": 5,
  "frequency_stride": 4,
  "max_length": 40,
  "num_mel_bins": 18,
}
# Spectrograms of other sizes than trained for: fewer frames, or more frames
# and more mel bins, or more frames and fewer mel bins.
SIZES = {"short": (23, 18), "large": (64, 30), "mixed": (51, 12)}


def grid(frames: int, mels: int) -> tuple[int, int]:
  size = SWITCHES["patch_size"]
  return (
    (mels - size) // SWITCHES["frequency_stride"] + 1,
    (frames - size) // SWITCHES["time_stride"] + 1,
  )


def saved(model: ASTModel) -> dict[str, np.ndarray]:
  """The tensors of a model under the names that files have."""
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    return load_file(pathlib.Path(folder) / "model.safetensors")


def loaded(config: ASTConfig, tensors: dict[str, np.ndarray]) -> ASTModel:
  with tempfile.TemporaryDirectory() as folder:
    config.save_pretrained(folder)
    save_file(
      {key: np.ascontiguousarray(x) for key, x in tensors.items()},
      pathlib.Path(folder) / "model.safetensors",
      metadata={"format": "pt"},
    )
    return ASTModel.from_pretrained(
      folder, attn_implementation="eager", dtype=torch.float32
    ).eval()


def random_tensors(rng: np.random.Generator) -> dict[str, np.ndarray]:
  shapes = {
    key: x.shape for key, x in saved(ASTModel(ASTConfig(**SWITCHES))).items()
  }
  tensors = {}
  for key in sorted(shapes):
    x = rng.normal(size=shapes[key])
    if key.endswith("weight") and x.ndim > 1:
      x *= 1.5 / np.sqrt(np.prod(shapes[key][1:]))
    elif key.endswith("weight"):
      x = 1 + 0.3 * x
    tensors[key] = x.astype(np.float32)
  return tensors


def resized(positions: np.ndarray, frames: int, mels: int) -> np.ndarray:
  """The rule of the paper's authors: cut the middle out, or interpolate."""
  old_mels, old_times = grid(SWITCHES["max_length"], SWITCHES["num_mel_bins"])
  new_mels, new_times = grid(frames, mels)
  x = torch.from_numpy(positions[:, 2:]).reshape(1, old_mels, old_times, -1)
  x = x.permute(0, 3, 1, 2)
  if new_times <= old_times:
    start = old_times // 2 - new_times // 2
    x = x[..., start : start + new_times]
  else:
    x = torch.nn.functional.interpolate(
      x, size=(old_mels, new_times), mode="bilinear"
    )
  if new_mels <= old_mels:
    start = old_mels // 2 - new_mels // 2
    x = x[..., start : start + new_mels, :]
  else:
    x = torch.nn.functional.interpolate(
      x, size=(new_mels, new_times), mode="bilinear"
    )
  x = x.permute(0, 2, 3, 1).reshape(1, new_mels * new_times, -1)
  return np.concatenate([positions[:, :2], x.numpy()], axis=1)


def values() -> dict[str, np.ndarray]:
  """All arrays of the file."""
  rng = np.random.default_rng(0)
  tensors = random_tensors(rng)
  arrays = {f"param/{key}": x for key, x in tensors.items()}
  arrays["cfg/json"] = np.frombuffer(
    json.dumps(SWITCHES).encode(), dtype=np.uint8
  )

  model = loaded(ASTConfig(**SWITCHES), tensors)
  size = (2, SWITCHES["max_length"], SWITCHES["num_mel_bins"])
  inputs = rng.normal(size=size).astype(np.float32)
  result = model(torch.from_numpy(inputs), output_hidden_states=True)
  tokens = result.last_hidden_state
  cotangent = rng.normal(size=tokens.shape).astype(np.float32)
  (tokens * torch.from_numpy(cotangent)).sum().backward()
  arrays["in/spectrograms"] = inputs
  arrays["in/cotangent"] = cotangent
  arrays["out/tokens"] = tokens.detach().numpy()
  arrays["out/pooled"] = result.pooler_output.detach().numpy()
  arrays["out/trace/embeddings"] = result.hidden_states[0].detach().numpy()
  for i, x in enumerate(result.hidden_states[1:]):
    arrays[f"out/trace/layer{i}"] = x.detach().numpy()
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(parameter.grad)
  arrays |= {f"grad/{key}": x for key, x in saved(model).items()}

  key = "embeddings.position_embeddings"
  for name, (frames, mels) in SIZES.items():
    config = ASTConfig(
      **SWITCHES | {"max_length": frames, "num_mel_bins": mels}
    )
    other = tensors | {key: resized(tensors[key], frames, mels)}
    inputs = rng.normal(size=(1, frames, mels)).astype(np.float32)
    with torch.no_grad():
      tokens = loaded(config, other)(torch.from_numpy(inputs))
    arrays[f"in/{name}"] = inputs
    arrays[f"out/{name}"] = tokens.last_hidden_state.numpy()
  return arrays


if __name__ == "__main__":
  np.savez_compressed(sys.argv[1], **values())
