"""Columns of a table by the names that the model has for them."""

import numpy as np
import pytest

from experiments.data_sets.columns import Renamed


class Table:
  kinds = {"video": "video", "text": "text"}
  ids = ["a"]
  where = np.ones((1, 2), bool)
  labels = sources = None

  def value(self, row, modality):
    return row, modality


def test_a_column_gets_the_name_of_a_modality():
  rows = Renamed(Table(), {"vision": "video"})
  assert list(rows.kinds.items()) == [("vision", "video"), ("text", "text")]
  assert rows.value(0, "vision") == (0, "video")
  assert rows.value(0, "text") == (0, "text")


def test_mistakes_are_explained():
  with pytest.raises(ValueError, match="names the columns .'film'."):
    Renamed(Table(), {"vision": "film"})
  with pytest.raises(ValueError, match="the same name"):
    Renamed(Table(), {"text": "video"})
  with pytest.raises(ValueError, match="one column two names"):
    Renamed(Table(), {"vision": "video", "sight": "video"})
