"""The tiny model of the golden values, with the weights that made them."""

import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
import pytest

from pmrl_jax import encoders
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.state_dict import to_params

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


def load(name):
  """The arrays of a golden file, and its `cfg`."""
  with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
    arrays = {key: file[key] for key in file}
  return arrays, json.loads(bytes(arrays.pop("cfg/json")))


def tiny_model(**options):
  return encoders.PMRLModel(
    encoders={
      "text": encoders.Bert(
        vocabulary_size=218,
        width=32,
        depth=3,
        num_heads=4,
        mlp_width=64,
        max_length=80,
      ),
      "vision": encoders.EvaVisionTransformer(
        image_size=56,
        width=48,
        depth=2,
        num_heads=4,
        mlp_width=209,
        head_width=0,
        drop_path_rate=0.0,
      ),
      "audio": encoders.Beats(
        depth=3,
        width=32,
        num_heads=4,
        mlp_width=64,
        patch_width=24,
        layerdrop_rate=0.0,
      ),
    },
    dim=16,
    width=32,
    **options,
  )


def model_inputs(golden):
  """The inputs of a golden file, as the model takes them."""
  names = {
    "text": "in/caption_input_ids",
    "vision": "in/vision_pixels",
    "audio": "in/audio_spectrograms",
    "subtitle": "in/subtitle_input_ids",
  }
  inputs = {name: golden[key] for name, key in names.items() if key in golden}
  if "vision" in inputs:
    inputs["vision"] = np.moveaxis(inputs["vision"], 2, -1)
  return inputs


class Published(NamedTuple):
  """The model, and what the official code made of it."""

  model: encoders.PMRLModel
  params: dict
  inputs: dict
  golden: dict
  config: dict
  tensors: dict


@pytest.fixture(scope="session")
def published():
  golden, config = load("pmrl_model")
  tensors = {
    key.removeprefix("param/"): array
    for key, array in golden.items()
    if key.startswith("param/")
  }
  model = tiny_model()
  loaded = to_params(tensors, published_table(model))
  assert not loaded.missing
  assert not loaded.unexpected
  params = jax.tree.map(jax.numpy.asarray, loaded.params)
  return Published(model, params, model_inputs(golden), golden, config, tensors)


def assert_near(actual, expected, tolerance=1e-4):
  """Within a tolerance relative to the scale of the whole array."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  scale = np.abs(expected).max()
  assert np.abs(actual - expected).max() <= tolerance * scale
