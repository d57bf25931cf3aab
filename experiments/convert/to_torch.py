"""A folder of parameters becomes a file that PyTorch can read."""

import json
from pathlib import Path
from typing import Any

from experiments.convert.from_torch import DESCRIPTION, PARAMS
from experiments.prepare.options import progress
from pmrl_jax import training
from pmrl_jax.weights import models
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.state_dict import to_tensors


def is_converted(folder: Path) -> bool:
  """Whether a folder is one that this program wrote."""
  return (folder / DESCRIPTION).is_file() and (folder / PARAMS).is_dir()


def convert(source: Path, target: Path) -> None:
  """Converts parameters.

  Args:
    source: A folder that this program wrote.
    target: The .safetensors file to write; replaced if it is there.

  Raises:
    ValueError: If the folder is damaged.
  """
  description = _description(source)
  model = models.MODELS[description["model"]]
  module = model.build(description["fields"])
  params: Any = training.load_params(source / PARAMS)
  for part in filter(None, description["under"].split("/")):
    params = params[part]
  tensors = to_tensors(params, model.table(module, []))
  target.parent.mkdir(parents=True, exist_ok=True)
  total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
  with progress("B") as tell:
    for key in write_safetensors(target, tensors):
      done += tensors[key].nbytes
      tell(done, total)
  print(f"{target}: {len(tensors):,} tensors, {total / 1e6:,.1f} MB")


def _description(folder: Path) -> dict[str, Any]:
  path = folder / DESCRIPTION
  try:
    content = json.loads(path.read_text("utf-8"))
    if content["model"] not in models.MODELS:
      raise ValueError(f"unknown model {content['model']!r}")
    return {name: content[name] for name in ("model", "fields", "under")}
  except (ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} is not as experiments.convert wrote it: {error!r}; convert the "
      "checkpoint again"
    ) from None
