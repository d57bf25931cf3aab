"""What a run reads, whatever it comes from."""

from typing import NamedTuple

from pmrl_jax.data import Mixture, Source
from pmrl_jax.evaluation import Display


class Data(NamedTuple):
  """What a run reads."""

  train: Source | Mixture
  test: Source  # held out
  displays: dict[str, Display]  # how the held-out items are drawn
  class_names: tuple[str, ...] | None
  vocabulary_sizes: dict[str, int]  # of the modalities that are text
