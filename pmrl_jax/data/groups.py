"""Which instances are the same thing, and so never each other's negatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from pmrl_jax.data.text import normalise


def group_ids(
  num_rows: int,
  *,
  sources: Sequence[str] | None = None,
  texts: Sequence[Sequence[Sequence[str]]] = (),
) -> np.ndarray:
  """Gives rows that share a source or a text the same number.

  Sharing carries over: rows with one text in common and rows of one source
  are all one group. Texts are compared in lower case, stripped.

  Args:
    num_rows: how many rows there are.
    sources: what each row was cut from, such as a film; "" where unknown.
    texts: for every modality that is text, the texts of each row.

  Returns:
    int32 `[row]`, numbered from 0.

  >>> group_ids(3, texts=[[["a dog"], ["a cat"], ["A dog ", "barking"]]])
  array([0, 1, 0], dtype=int32)
  """
  keys: list[tuple[int, str]] = []
  rows: list[int] = []
  for row, source in enumerate(sources or ()):
    if source:
      rows.append(row)
      keys.append((-1, source))
  for modality, column in enumerate(texts):
    for row, captions in enumerate(column):
      for caption in captions:
        rows.append(row)
        keys.append((modality, normalise(caption).strip()))
  if not keys:
    return np.arange(num_rows, dtype=np.int32)
  numbers: dict[tuple[int, str], int] = {}
  columns = [numbers.setdefault(key, len(numbers)) for key in keys]
  # A graph of rows and what they have; its components are the groups.
  size = num_rows + len(numbers)
  graph = sparse.coo_array(
    (np.ones(len(rows), bool), (rows, np.asarray(columns) + num_rows)),
    shape=(size, size),
  )
  _, labels = sparse.csgraph.connected_components(graph, directed=False)
  _, ids = np.unique(labels[:num_rows], return_inverse=True)
  return ids.astype(np.int32)
