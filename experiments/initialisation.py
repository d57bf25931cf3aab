"""Parameters to start from: converted ones, or those of another run.

They are a folder that `experiments.convert` wrote, that of a run, or a file
that `experiments.export` wrote.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import workdir as workdirs
from experiments.convert.from_torch import PARAMS
from pmrl_jax import encoders, training
from pmrl_jax.encoders.resize import nearest_indices
from pmrl_jax.weights.safetensors_files import read_metadata, read_safetensors
from pmrl_jax.weights.trees import flat, listing, nested

# Of a published model that has other modalities than a converted one: what
# belongs to those that it lacks. Its encoders go by any names.
_OF_MODALITIES = re.compile("^(encoders|heads|fused_heads|adapters)_[^/]+/")
_FILE = ".safetensors"
# Embeddings of frames and clips, the number of which is no matter.
_CLIPS = re.compile("^adapters_[^/]+/clip_embedding$")


def replaced(params: Any, folders: Sequence[str], model: Any = None) -> Any:
  """Replaces parameters by those in folders.

  Of the published model a part may start from the whole: what belongs to
  modalities that it does not have is left out. It may also have other numbers
  of frames and clips, whose embeddings then are the nearest ones, as
  published.

  Args:
    params: The model's, random.
    folders: Each with some of them: what `experiments.convert` wrote, or a run,
      whose best checkpoint is read, or a .safetensors file that
      `experiments.export` wrote.
    model: The model.

  Returns:
    The parameters, in the dtypes that they had and where they were.

  Raises:
    ValueError: If a folder holds no parameters, or some that the model does
      not have or has in another shape; or if two have the same.
    FileNotFoundError: If a folder is not there.
  """
  ours, found = flat(params), dict[str, str]()
  is_published = isinstance(model, encoders.PMRLModel)
  parts = {name.split("/")[0] for name in ours}
  left_out = 0
  for folder in folders:
    theirs = _specs(Path(folder))
    if is_published:
      known = {
        name: spec
        for name, spec in theirs.items()
        if name.split("/")[0] in parts or not _OF_MODALITIES.search(name)
      }
      left_out += len(theirs) - len(known)
      theirs = known or theirs  # none of them is a mistake
    _check(folder, ours, theirs, any_clips=is_published)
    if twice := [name for name in theirs if name in found]:
      raise ValueError(
        f"{folder} has parameters that {found[twice[0]]} has as well:"
        f"{listing(twice)}"
      )
    found |= dict.fromkeys(theirs, folder)
  # Only now, since all that can be wrong was to show before.
  for folder in folders:
    for name, array in _arrays(Path(folder)):
      if name in found:
        ours[name] = _placed(_resized(array, ours[name]), ours[name])
  print(f"{len(found):,} of {len(ours):,} parameter arrays are from {folders}")
  if left_out:
    print(f"{left_out:,} arrays of modalities that the run lacks are left out")
  return nested(ours)


def _specs(source: Path) -> dict[str, Any]:
  """What has the shapes and dtypes of parameters, by their paths."""
  if source.suffix == _FILE:
    return _tensors(source)
  return flat(training.params_shapes(*_place(source)))


def _arrays(source: Path) -> Iterator[tuple[str, np.ndarray]]:
  """The parameters with their paths, of a file one at a time."""
  if source.suffix == _FILE:
    for name, tensor in _tensors(source).items():
      yield name, tensor.read()
    return
  yield from flat(training.load_params(*_place(source))).items()


def _tensors(path: Path) -> dict[str, Any]:
  """The parameters in a file, still in it.

  Raises:
    ValueError: If it is damaged, or no file of experiments.export.
    FileNotFoundError: If it is not there.
  """
  if not path.is_file():
    raise FileNotFoundError(f"config.init_from names {path}, which is no file")
  if (written := read_metadata(path).get("format")) != "flax":
    raise ValueError(
      f"config.init_from names {path}, whose arrays are not as Flax has them "
      f"(its format is {written!r}); experiments.convert makes a folder of it, "
      "to start from"
    )
  return read_safetensors(path)


def _place(folder: Path) -> tuple[Path, str | None]:
  """Where parameters are, and as which part of what is there."""
  if (folder / PARAMS).is_dir():
    return folder / PARAMS, None
  if not (folder / "checkpoints").is_dir():
    raise FileNotFoundError(
      f"config.init_from names {folder}, which is no folder that "
      "experiments.convert wrote, none of a run with checkpoints, and no "
      ".safetensors file"
    )
  config = workdirs.read_config(folder)
  checkpointer = training.Checkpointer(
    folder / "checkpoints", **config.checkpoint.retention, read_only=True
  )
  steps, best = checkpointer.steps(), checkpointer.best_step()
  checkpointer.close()
  if not steps:
    raise FileNotFoundError(
      f"config.init_from names {folder}, a run without checkpoints"
    )
  step = steps[-1] if best is None else best
  # What was evaluated when it was found the best; not in configs of old runs.
  part = "params" if config.get("ema_decay") is None else "ema"
  return folder / "checkpoints" / str(step) / "state", part


def _resized(array: np.ndarray, ours: Any) -> np.ndarray:
  """As many rows as ours has; others than clip embeddings have them."""
  if array.shape[:1] == ours.shape[:1]:
    return array
  return array[nearest_indices(array.shape[0], ours.shape[0])]


def _placed(array: np.ndarray, ours: jax.Array) -> jax.Array:
  """The array in the dtype of ours, each device with its part of it."""
  array = array.astype(ours.dtype)
  return jax.make_array_from_callback(
    ours.shape, ours.sharding, lambda index: array[index]
  )


def _check(
  folder: str,
  ours: Mapping[str, Any],
  theirs: Mapping[str, Any],
  *,
  any_clips: bool,
) -> None:
  """Checks that the model has all parameters of a folder."""
  unknown = [name for name in theirs if name not in ours]
  if unknown:
    raise ValueError(
      f"{len(unknown)} of {len(theirs)} parameters in {folder} are none of the "
      f"model (--under of experiments.convert says where they belong; the "
      f"model has {next(iter(ours))} and others):{listing(unknown)}"
    )

  def fits(name: str, spec: Any) -> bool:
    skipped = int(any_clips and _CLIPS.search(name) is not None)
    return tuple(spec.shape)[skipped:] == tuple(ours[name].shape)[skipped:]

  wrong = [
    f"{name} is {list(spec.shape)}, and the model's {list(ours[name].shape)}"
    for name, spec in theirs.items()
    if not fits(name, spec)
  ]
  if wrong:
    raise ValueError(
      f"{len(wrong)} parameters in {folder} do not fit the model:"
      f"{listing(wrong)}"
    )
