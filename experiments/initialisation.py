"""Parameters to start from, which `experiments.convert` wrote."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from experiments.convert.from_torch import PARAMS
from pmrl_jax import training
from pmrl_jax.weights.trees import flat, listing, nested


def replaced(params: Any, folders: Sequence[str]) -> Any:
  """Replaces parameters by those in folders.

  Args:
    params: The model's, random.
    folders: Each with some of them.

  Returns:
    The parameters, in the dtypes that they had.

  Raises:
    ValueError: If a folder holds no parameters, or some that the model does
      not have or has in another shape; or if two have the same.
    FileNotFoundError: If a folder is not there.
  """
  ours, found = flat(params), dict[str, str]()
  for folder in folders:
    path = Path(folder) / PARAMS
    if not path.is_dir():
      raise FileNotFoundError(
        f"config.init_from names {folder}, which is no folder that "
        "experiments.convert wrote"
      )
    theirs = flat(training.params_shapes(path))
    _check(folder, ours, theirs)
    if twice := [name for name in theirs if name in found]:
      raise ValueError(
        f"{folder} has parameters that {found[twice[0]]} has as well:"
        f"{listing(twice)}"
      )
    found |= dict.fromkeys(theirs, folder)
  # Only now, since all that can be wrong was to show before.
  for folder in folders:
    for name, array in flat(
      training.load_params(Path(folder) / PARAMS)
    ).items():
      ours[name] = jnp.asarray(array, ours[name].dtype)
  print(f"{len(found):,} of {len(ours):,} parameter arrays are from {folders}")
  return nested(ours)


def _check(
  folder: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> None:
  """Checks that the model has all parameters of a folder."""
  unknown = [name for name in theirs if name not in ours]
  if unknown:
    raise ValueError(
      f"{len(unknown)} of {len(theirs)} parameters in {folder} are none of the "
      f"model (--under of experiments.convert says where they belong; the "
      f"model has {next(iter(ours))} and others):{listing(unknown)}"
    )
  wrong = [
    f"{name} is {list(spec.shape)}, and the model's {list(ours[name].shape)}"
    for name, spec in theirs.items()
    if tuple(spec.shape) != tuple(ours[name].shape)
  ]
  if wrong:
    raise ValueError(
      f"{len(wrong)} parameters in {folder} do not fit the model:"
      f"{listing(wrong)}"
    )
