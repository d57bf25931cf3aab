"""A part of a source reads as the whole does."""

import numpy as np
import pytest

from pmrl_jax.data import ArraySource, View, evaluation_batches

SOURCE = ArraySource(
  {"a": np.arange(10.0).reshape(5, 2), "b": np.arange(5) + 100},
  where=np.array([[1, 1], [1, 1], [1, 0], [1, 1], [1, 1]], bool),
  labels=np.array([3, 1, 4, 1, 5]),
)


def test_a_view_has_the_chosen_instances_and_modalities():
  view = View(SOURCE, [4, 2], ["b"])
  assert len(view) == 2 and list(view.spec) == ["b"]
  assert view.labels.tolist() == [5, 4]
  assert view.where.tolist() == [[True], [False]]
  assert view.pairing(3).tolist() == [[4], [2]]
  assert view.num_items("b") == 5
  (batch,) = evaluation_batches(view, batch_size=2)
  assert list(batch["inputs"]) == ["b"]
  assert batch["inputs"]["b"][0] == 104


def test_an_unknown_modality_is_explained():
  with pytest.raises(ValueError, match="among .'a', 'b'., got .'c'."):
    View(SOURCE, [0], ["c"])
