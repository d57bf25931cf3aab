"""The order of training: epochs of one data set, or a mixture of several."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pmrl_jax.data.recent import Recent
from pmrl_jax.data.sources import Source, Spec

# Positions after which the pattern of a mixture starts again, reshuffled. The
# shares are exact to one in so many.
PERIOD = 1000


@dataclasses.dataclass(frozen=True)
class Mixture:
  """Data sets that are trained on together.

  Each keeps epochs of its own, with every instance once. A modality that a
  data set does not have is absent there, and an instance of one is never the
  same thing as one of another.

  Attributes:
    sources: the data sets.
    weights: their shares of the stream, up to a factor.
  """

  sources: Sequence[Source]
  weights: Sequence[float]

  def __len__(self) -> int:
    """The number of instances of all data sets."""
    return sum(map(len, self.sources))

  @property
  def spec(self) -> dict[str, Spec]:
    """The modalities of all data sets, by first appearance.

    Raises:
      ValueError: if two data sets have different items of the same name.
    """
    specs: dict[str, Spec] = {}
    for source in self.sources:
      for modality, spec in source.spec.items():
        if specs.setdefault(modality, spec) != spec:
          raise ValueError(
            "the data sets of a mixture have different items of "
            f"{modality!r}: {specs[modality]} and {spec}; bring them to one "
            "shape and type"
          )
    return specs

  @property
  def modalities(self) -> tuple[str, ...]:
    """Their names, in the order of every stacked array."""
    return tuple(self.spec)

  @property
  def notes(self) -> tuple[str, ...]:
    """Sentences on what loading did to the data."""
    return tuple(note for source in self.sources for note in source.notes)


class Places(NamedTuple):
  """Where positions of the stream lie."""

  source: np.ndarray  # int [position]
  epoch: np.ndarray  # int [position], of that source
  instance: np.ndarray  # int [position], in that source


class Order:
  """Where every position of the training stream lies, at random access."""

  def __init__(self, mixture: Mixture, *, seed: int):
    """Checks the mixture.

    Args:
      mixture: the sources and their weights.
      seed: the seed of the order, not negative.

    Raises:
      ValueError: if the seed is negative, a weight is no positive number or
        rounds to nothing, or there is none or too few of them.
    """
    sources, weights = mixture.sources, mixture.weights
    if seed < 0:
      raise ValueError(f"expected a seed that is not negative, got {seed}")
    if not sources or len(sources) != len(weights):
      raise ValueError(
        "expected one weight for each of one source or more, got "
        f"{len(sources)} sources and weights {list(weights)}"
      )
    if not all(0 < weight < np.inf for weight in weights):
      raise ValueError(
        f"expected positive weights, got {list(weights)}; leave out what is "
        "not to be trained on"
      )
    self._sizes = [len(source) for source in sources]
    self._seed = seed
    self._counts = _apportion(np.asarray(weights, np.float64))
    if not self._counts.all():
      raise ValueError(
        f"the weights {list(weights)} leave a data set less than one in "
        f"{PERIOD} examples; raise its weight or leave it out"
      )
    # A batch may straddle two epochs, and a few periods.
    self._permutation = Recent(self._permute, size=2 * len(sources))
    self._pattern = Recent(self._arrange, size=8)

  def __call__(self, positions: np.ndarray) -> Places:
    """Returns where positions of the stream lie, int `[position]` each."""
    source = np.zeros(len(positions), np.int64)
    turn = positions.astype(np.int64)  # of its source
    if len(self._sizes) > 1:
      periods, offsets = np.divmod(positions, PERIOD)
      for period in np.unique(periods).tolist():
        rows = periods == period
        pattern, rank = self._pattern(period)
        source[rows] = pattern[offsets[rows]]
        turn[rows] = rank[offsets[rows]] + period * self._counts[source[rows]]
    sizes = np.asarray(self._sizes)[source]
    epoch, offset = np.divmod(turn, sizes)
    instance = np.empty(len(positions), np.int64)
    for number, each in set(zip(source.tolist(), epoch.tolist())):
      rows = (source == number) & (epoch == each)
      instance[rows] = self._permutation(number, each)[offset[rows]]
    return Places(source, epoch, instance)

  def _permute(self, source: int, epoch: int) -> np.ndarray:
    # The third number keeps this stream apart from the pairing's.
    words = [self._seed, epoch, 1, *([source] if source else [])]
    return np.random.default_rng(words).permutation(self._sizes[source])

  def _arrange(self, period: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each place's source, and how many of that source came before."""
    pattern = np.repeat(np.arange(len(self._counts)), self._counts)
    pattern = np.random.default_rng([self._seed, period, 2]).permutation(
      pattern
    )
    rank = np.empty(PERIOD, np.int64)
    for source, count in enumerate(self._counts):
      rank[pattern == source] = np.arange(count)
    return pattern, rank


def _apportion(weights: np.ndarray) -> np.ndarray:
  """Splits `PERIOD` places by weights, the largest remainders first."""
  exact = weights / weights.sum() * PERIOD
  counts = np.floor(exact).astype(np.int64)
  remainder = PERIOD - counts.sum()
  counts[np.argsort(counts - exact, kind="stable")[:remainder]] += 1
  return counts
