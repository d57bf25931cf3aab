"""A conversion takes little more memory than the checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Converts a small checkpoint, then a large one, there and back, and tells by
# how much the large one raised the peak.
PROGRAM = """
import json, resource, sys
from pathlib import Path
import numpy as np
from experiments.convert import from_torch, to_torch
from pmrl_jax.weights import models
from pmrl_jax.weights.places import to_tensors
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.tensors import LazyTensor
from pmrl_jax.weights.tensors import stand_in

def peak():
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def generate(path, **fields):
  model = models.MODELS["bert"]
  module = model.build(fields | {"num_heads": 4})
  forms = to_tensors(
    models.parameters(model, module), model.table(module, [])
  )
  rng = np.random.default_rng(0)
  tensors = {
    key: form._replace(
      read=lambda form=form: rng.random(form.shape, np.float32)
    )
    for key, form in forms.items()
    if form.dtype == np.float32 and ".decoder." not in key
  }
  list(write_safetensors(path, tensors))

def convert(name, folder):
  options = from_torch.Options(model="bert", fields={"num_heads": 4})
  from_torch.convert(folder / f"{name}.safetensors", folder / name, options)

folder = Path(sys.argv[1])
way = sys.argv[2]
if way == "generate":
  generate(folder / "small.safetensors", width=16, depth=2, mlp_width=16)
  generate(
    folder / "large.safetensors", width=1024, depth=8, mlp_width=3072,
    vocabulary_size=8192,
  )
elif way == "there":
  convert("small", folder)
  before = peak()
  convert("large", folder)
  print(json.dumps(peak() - before))
else:
  to_torch.convert(folder / "small", folder / "small-back.safetensors")
  before = peak()
  to_torch.convert(folder / "large", folder / "large-back.safetensors")
  print(json.dumps(peak() - before))
"""


@pytest.mark.slow
def test_memory_stays_near_the_size_of_the_checkpoint(tmp_path, environment):
  def run(way):
    ended = subprocess.run(
      [sys.executable, "-c", PROGRAM, tmp_path, way],
      cwd=ROOT,
      env=environment,
      capture_output=True,
      text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()

  run("generate")
  size = (tmp_path / "large.safetensors").stat().st_size
  assert size > 400e6
  for way in ("there", "back"):
    extra = json.loads(run(way)[-1])
    assert extra < 1.3 * size, f"{way}: {extra / size:.2f} times the size"
