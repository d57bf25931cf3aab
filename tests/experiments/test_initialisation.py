"""A part of the published model starts from the whole."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import initialisation
from pmrl_jax import encoders, training

MODEL = encoders.PMRLModel({})


@pytest.fixture
def folder(tmp_path):
  whole = {
    "encoders_vision": {"kernel": np.ones((2, 3), np.float32)},
    "adapters_vision": {
      "clip_embedding": np.array([[1, 1], [2, 2]], np.float32)
    },
    "heads_text": {"kernel": np.full((2, 2), 3, np.float32)},
    "temperature": np.array(0.5, np.float32),
  }
  training.save_params(tmp_path / "params", whole)
  return tmp_path


def replaced(folder, params, model=MODEL):
  params = jax.tree.map(jnp.asarray, params)
  return initialisation.replaced(params, [str(folder)], model)


def text_only():
  return {
    "heads_text": {"kernel": np.zeros((2, 2), np.float32)},
    "temperature": np.zeros((), np.float32),
  }


def test_modalities_that_a_run_lacks_are_left_out(folder, capsys):
  params = replaced(folder, text_only())
  assert params["heads_text"]["kernel"][0, 0] == 3
  assert params["temperature"] == 0.5
  out = capsys.readouterr().out
  assert "2 of 2 parameter arrays" in out and "2 arrays of modalities" in out
  with pytest.raises(ValueError, match="2 of 4 parameters in"):
    replaced(folder, text_only(), model=None)


def test_embeddings_of_clips_are_the_nearest_ones(folder):
  params = text_only() | {
    "adapters_vision": {"clip_embedding": np.zeros((5, 2), np.float32)}
  }
  del params["heads_text"], params["temperature"]
  params |= text_only() | {
    "encoders_vision": {"kernel": np.zeros((2, 3), np.float32)}
  }
  new = replaced(folder, params)["adapters_vision"]["clip_embedding"]
  assert new[:, 0].tolist() == [1, 1, 1, 2, 2]
  with pytest.raises(
    ValueError, match=r"is \[2, 2\], and the model's \[5, 2\]"
  ):
    replaced(folder, params, model=None)
  params["adapters_vision"]["clip_embedding"] = np.zeros((5, 3), np.float32)
  with pytest.raises(
    ValueError, match=r"is \[2, 2\], and the model's \[5, 3\]"
  ):
    replaced(folder, params)


def test_parameters_of_another_model_are_refused(folder):
  with pytest.raises(ValueError, match="are none of the model"):
    replaced(
      folder, {"encoders_image": {"kernel": np.zeros((2, 3), np.float32)}}
    )


def test_a_run_starts_from_the_best_checkpoint_of_another(
  tiny_folder, saved_state
):
  run = tiny_folder / "runs" / "tiny_config"
  place, part = initialisation._place(run)
  trained = saved_state(run, int(place.parent.name))["params"]
  params = jax.tree.map(np.zeros_like, trained)
  chex.assert_trees_all_equal(replaced(run, params, model=None), trained)
  assert part == "params"
