"""Some instances and modalities of a source, as a source."""

from collections.abc import Callable, Sequence

import numpy as np

from pmrl_jax.data.failures import Failure
from pmrl_jax.data.sources import Source, Spec


class View(Source):
  """Some instances of a source, in any order, and some of its modalities.

  Items keep their numbers, and are read by the source.

  >>> import numpy as np
  >>> from pmrl_jax.data import ArraySource, View
  >>> whole = ArraySource({"left": np.zeros((3, 4)), "right": np.ones((3, 2))})
  >>> view = View(whole, [2, 0], ["right"])
  >>> view.modalities, view.pairing(0).tolist()
  (('right',), [[2], [0]])
  """

  def __init__(
    self,
    source: Source,
    instances: Sequence[int] | np.ndarray,
    modalities: Sequence[str],
  ):
    """Looks at a source.

    Args:
      source: the whole.
      instances: numbers of its instances.
      modalities: some of its modalities.

    Raises:
      ValueError: if the source lacks one of them.
    """
    unknown = [name for name in modalities if name not in source.modalities]
    if unknown:
      raise ValueError(
        f"expected modalities among {list(source.modalities)}, got {unknown}"
      )
    self._source = source
    self._instances = np.asarray(instances, int)
    self._columns = [source.modalities.index(name) for name in modalities]
    super().__init__(
      tuple(modalities),
      labels=source.labels[self._instances],
      ids=source.ids[self._instances],
      where=source.where[self._instances][:, self._columns],
      notes=source.notes,
    )

  @property
  def spec(self) -> dict[str, Spec]:
    """The shape and type of one item of every modality."""
    spec = self._source.spec
    return {name: spec[name] for name in self.modalities}

  def num_items(self, modality: str) -> int:
    """The number of items of one modality in the whole source."""
    return self._source.num_items(modality)

  def pairing(self, epoch: int) -> np.ndarray:
    """Returns the items that form each instance in one epoch."""
    return self._source.pairing(epoch)[self._instances][:, self._columns]

  def read(
    self,
    modality: str,
    items: np.ndarray,
    where: np.ndarray,
    generator: Callable[[int], np.random.Generator] | None = None,
  ) -> tuple[np.ndarray, dict[int, Failure]]:
    """Reads items of one modality; see `Source.read`."""
    return self._source.read(modality, items, where, generator)
