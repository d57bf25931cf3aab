"""Data sets by the name that a config gives them."""

import functools
from collections.abc import Callable, Sequence

import ml_collections

from experiments.data_sets.arrays import arrays
from experiments.data_sets.data import Data
from experiments.data_sets.rows import manifest, tfds
from experiments.data_sets.shipped import mfeat, multimodal_digits
from pmrl_jax.data import Mixture, Source, Transform, audio, tabular, vision

__all__ = ["Data", "load_data", "load_transforms"]


def load_data(config: ml_collections.ConfigDict) -> Data:
  """Loads the data set that `config.data` names.

  Args:
    config: The run's config. `data.name` is one of those below, or "mixture":
      then `data.parts.<part>` describes each data set as `data` would, with a
      `weight`, and `data.test_part` says whose held-out split is measured.

  Returns:
    The two splits and how to draw their items.

  Raises:
    ValueError: If the name or a modality is unknown, or the data is bad.
    FileNotFoundError: If a file is missing.
  """
  if config.data.name == "mixture":
    data = _mixture(config)
  else:
    data = _load(config, config.data, "config.data")
  if len(data.train.modalities) < 2:
    raise ValueError(
      f"there must be two modalities or more to align, got "
      f"{list(data.train.modalities)}; set config.data.modalities"
    )
  return data


def _load(
  config: ml_collections.ConfigDict,
  described: ml_collections.ConfigDict,
  where: str,
) -> Data:
  loaders: dict[str, Callable[[ml_collections.ConfigDict, int], Data]] = {
    "arrays": arrays,
    "manifest": manifest,
    "mfeat": mfeat,
    "multimodal_digits": multimodal_digits,
    "tfds": tfds,
  }
  if described.name not in loaders:
    raise ValueError(
      f"{where}.name must be one of {[*sorted(loaders), 'mixture']}, got "
      f"{described.name!r}"
    )
  return loaders[described.name](described, config.seed)


def _mixture(config: ml_collections.ConfigDict) -> Data:
  """Several data sets, of which one has the held-out split."""
  parts, test_part = config.data.parts, config.data.test_part
  if test_part not in parts:
    raise ValueError(
      f"config.data.test_part must be one of {sorted(parts)}, got {test_part!r}"
    )
  loaded = {
    name: _load(config, part, f"config.data.parts.{name}")
    for name, part in parts.items()
  }
  train = Mixture(
    [data.train for data in loaded.values() if isinstance(data.train, Source)],
    [part.weight for part in parts.values()],
  )
  sizes: dict[str, int] = {}
  for data in loaded.values():
    for modality, size in data.vocabulary_sizes.items():
      if sizes.setdefault(modality, size) != size:
        raise ValueError(
          f"the parts of the mixture have different vocabularies of "
          f"{modality!r}: {sizes[modality]} and {size} ids"
        )
  test = loaded[test_part]
  if test.test.modalities != train.modalities:
    raise ValueError(
      f"the held-out split of {test_part!r} has the modalities "
      f"{list(test.test.modalities)}, but the mixture {list(train.modalities)};"
      " it must have all, in this order"
    )
  return test._replace(train=train, vocabulary_sizes=sizes)


def load_transforms(
  config: ml_collections.ConfigDict, modalities: Sequence[str]
) -> dict[str, list[Transform]]:
  """The random changes of the training inputs that `config.transforms` names.

  Args:
    config: The run's config; `transforms.<modality>.<function>` holds the
      keyword arguments of one of the functions in `pmrl_jax.data`.
    modalities: The modalities of the run; others are left out.

  Returns:
    `{modality: functions}`.

  Raises:
    ValueError: If a function is unknown.
    TypeError: If its arguments do not fit.
  """
  functions: dict[str, Callable] = {
    "random_shift": vision.random_shift,
    "random_time_shift": audio.random_time_shift,
    "random_gain": audio.random_gain,
    "random_noise": audio.random_noise,
    "random_gaussian_noise": tabular.random_gaussian_noise,
  }
  transforms: dict[str, list[Transform]] = {}
  for modality in modalities:
    for name, arguments in config.transforms.get(modality, {}).items():
      if name not in functions:
        raise ValueError(
          f"config.transforms.{modality} names {name!r}; there are "
          f"{sorted(functions)}"
        )
      transforms.setdefault(modality, []).append(
        functools.partial(functions[name], **arguments)
      )
  return transforms
