"""A checkpoint of PyTorch becomes a folder of parameters."""

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.prepare.options import progress
from pmrl_jax import training
from pmrl_jax.weights import models
from pmrl_jax.weights.files import open_checkpoint
from pmrl_jax.weights.initial import initial
from pmrl_jax.weights.state_dict import Loaded, compare, to_params
from pmrl_jax.weights.tables import Entry
from pmrl_jax.weights.trees import flat, listing, nested

# Beside the parameters: what they are.
DESCRIPTION = "conversion.json"
PARAMS = "params"


class Options(NamedTuple):
  """What the flags say; see `program.py`."""

  model: str | None
  fields: dict[str, Any]
  under: str = ""
  seed: int = 0
  allow_missing: bool = False
  allow_unexpected: bool = False


def convert(source: Path, target: Path, options: Options) -> None:
  """Converts a checkpoint.

  Args:
    source: The checkpoint.
    target: The folder to write; replaced if it is there.
    options: How.

  Raises:
    ValueError: If the checkpoint is damaged or does not fit the model.
    FileNotFoundError: If it, or a part of it, is not there.
    ImportError: If what reads it is not installed.
  """
  if options.model is None:
    raise ValueError(
      f"expected whose checkpoint {source} is: --model, one of "
      f"{', '.join(models.MODELS)}"
    )
  model = models.MODELS[options.model]
  checkpoint = open_checkpoint(source)
  tensors = model.keys(checkpoint.tensors)
  shapes = {key: tensor.shape for key, tensor in tensors.items()}
  fields = model.infer(shapes, checkpoint.settings) | options.fields
  module = model.build(fields)
  table = model.table(module, tensors)
  expected = models.parameters(model, module)
  known: dict[str, Any] = {"target": expected, "resizing": model.resizing}
  report = compare(tensors, table, **known)
  # Of some parameters the checkpoint's family has no keys at all.
  paths = {line.path for line in table if isinstance(line, Entry)}
  absent = report.missing + [
    f"{path} (of the model)" for path in flat(expected) if path not in paths
  ]
  _check(source, report, absent, options)
  _print(report, absent)
  init = initial(models.initialiser(model, module, options.seed))
  with progress("B") as tell:
    loaded = to_params(tensors, table, init=init, progress=tell, **known)
  params = loaded.params
  if options.under:
    params = nested({options.under: params})
  description = {
    "from": source.name,
    "model": options.model,
    "fields": fields,
    "under": options.under,
    "missing": absent,
    "unexpected": report.unexpected,
    "unused": report.unused,
    "resized": report.resized,
  }
  _write(target, params, description)
  arrays = list(flat(params).values())
  print(
    f"{target}: {sum(array.size for array in arrays):,} parameters, "
    f"{sum(array.nbytes for array in arrays) / 1e6:,.1f} MB"
  )


def _check(
  source: Path, report: Loaded, absent: list[str], options: Options
) -> None:
  """Raises what does not fit and was not allowed."""
  problems = []
  if absent and not options.allow_missing:
    problems.append(
      f"{source} lacks {len(absent)} of the model's tensors "
      "(--allow_missing_keys makes them random):"
      f"{listing(absent, shown=len(absent))}"
    )
  if report.unexpected and not options.allow_unexpected:
    keys = report.unexpected
    problems.append(
      f"{source} has {len(keys)} keys that the model does not "
      "(--allow_unexpected_keys leaves them out):"
      f"{listing(keys, shown=len(keys))}"
    )
  if problems:
    raise ValueError("\n".join(problems))


def _print(report: Loaded, absent: list[str]) -> None:
  """Tells what was resized, left out and made up."""
  for key, (before, after) in report.resized.items():
    print(f"resized: {key} from {list(before)} to {list(after)}")
  for key in absent:
    print(f"missing, hence random: {key}")
  for key in report.unexpected:
    print(f"unexpected, left out: {key}")
  if report.unused:
    print(f"known to be of no use, left out: {len(report.unused)} tensors")


def _write(target: Path, params: Any, description: dict[str, Any]) -> None:
  """Writes a folder; it gets its name once it is whole."""
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
  try:
    training.save_params(partial / PARAMS, params)
    text = json.dumps(description, indent=2, default=_plain)
    (partial / DESCRIPTION).write_text(text + "\n", "utf-8")
    if target.exists():
      shutil.rmtree(target) if target.is_dir() else target.unlink()
    partial.rename(target)
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _plain(value: Any) -> Any:
  """Numbers of NumPy as those of Python."""
  if isinstance(value, np.generic):
    return value.item()
  raise TypeError(f"cannot write {value!r}")
