"""Small checkpoints for tests."""

import json

import jax.numpy as jnp
import numpy as np

from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.tensors import lazy

TENSORS = {
  "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
  "a.half": np.ones((3,), jnp.bfloat16) * 1.5,
  "scalar": np.array(0.07, np.float32),
  "ids": np.arange(4)[None],
  "empty": np.zeros((0, 2), np.float16),
  "flags": np.array([True, False]),
}


def save(path, tensors=TENSORS, **metadata):
  tensors = {key: lazy(array) for key, array in tensors.items()}
  written = list(write_safetensors(path, tensors, metadata=metadata))
  assert sorted(written) == sorted(tensors)


def check(checkpoint, tensors=TENSORS):
  assert set(checkpoint.tensors) == set(tensors)
  for key, array in tensors.items():
    tensor = checkpoint.tensors[key]
    values = tensor.read()
    assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype)
    assert (values.shape, values.dtype) == (array.shape, array.dtype)
    np.testing.assert_array_equal(values, array)


def shards(suffix):
  keys = list(TENSORS)
  return {
    f"model-{i + 1:05}-of-00002{suffix}": {k: TENSORS[k] for k in half}
    for i, half in enumerate((keys[:3], keys[3:]))
  }


def save_index(path, files):
  weight_map = {key: name for name, half in files.items() for key in half}
  path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def bad_file(tmp_path, name, content):
  path = tmp_path / name
  path.write_bytes(content)
  return path
