"""The columns of a table by the names that the model has for them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pmrl_jax.data import Rows


class Renamed:
  """Rows whose modalities have other names; a `Rows` itself."""

  def __init__(self, rows: Rows, columns: Mapping[str, str]):
    """Renames some modalities; the others keep their names.

    Args:
      rows: The rows.
      columns: `{modality: column}`.

    Raises:
      ValueError: If there is no such column, or a name is taken twice.
    """
    unknown = [name for name in columns.values() if name not in rows.kinds]
    if unknown:
      raise ValueError(
        f"config.data.columns names the columns {unknown}, and the data has "
        f"{list(rows.kinds)}; correct it, or take the modality out of "
        "config.data.modalities"
      )
    names = {column: modality for modality, column in columns.items()}
    self._columns = {names.get(name, name): name for name in rows.kinds}
    if len(self._columns) < len(rows.kinds) or len(names) < len(columns):
      raise ValueError(
        f"config.data.columns {dict(columns)} gives two columns of "
        f"{list(rows.kinds)} the same name, or one column two names"
      )
    self._rows = rows
    self.kinds = {
      modality: rows.kinds[column] for modality, column in self._columns.items()
    }
    self.ids: Sequence[str] = rows.ids
    self.where: np.ndarray = rows.where
    self.labels: np.ndarray | None = rows.labels
    self.sources: Sequence[str] | None = rows.sources

  def value(self, row: int, modality: str) -> Any:
    """Returns what the column of a modality holds."""
    return self._rows.value(row, self._columns[modality])
