"""Measures the memory that converting the published model's checkpoint takes.

  python -m experiments.benchmarks.conversion

Writes a checkpoint of random values at the published sizes (5.1 GB; needs 15 GB
under --scratch) and converts it there and back, from PyTorch's own format, too,
where PyTorch is installed. Each conversion is a process of its own, whose peak
is set beside the size of the file. Prints a table and writes, after each
conversion, `runs/benchmarks/conversion.json`; see docs/benchmarks.md.
"""

import concurrent.futures
import functools
import json
import math
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tqdm
from absl import flags, logging

from experiments import cli, workdir
from experiments.benchmarks import machine, options, published, report, tables
from experiments.benchmarks.goals import Goal, at_most
from experiments.benchmarks.steps import SIZES, StepCase, build_model
from experiments.convert import from_torch, to_torch
from pmrl_jax.weights import models
from pmrl_jax.weights.places import places_of, to_tensors
from pmrl_jax.weights.safetensors_files import (
  read_safetensors,
  write_safetensors,
)

_SIZE = flags.DEFINE_enum(
  "checkpoint_size", "full", sorted(SIZES), "The model whose checkpoint it is."
)
_SCRATCH = flags.DEFINE_string(
  "scratch", None, "Where checkpoints are written. Default: beside --output."
)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(options)

_PLACE = "conversion"  # of the tables in a page
_SAFETENSORS, _TORCH, _PARAMS = "model.safetensors", "model.pt", "params"
# Peak over the size of the checkpoint, all libraries included; so it says
# something of large ones alone.
_BOUND, _LARGE = 1.3, 1e9


_Result = TypeVar("_Result")


class Conversion(NamedTuple):
  """What a conversion took."""

  name: str
  checkpoint_bytes: int
  before_bytes: int  # of the process, libraries and all, before it began
  peak_bytes: int
  seconds: float


def main() -> None:
  """Measures from the flags."""
  output = Path(options.OUTPUT.value or "runs/benchmarks/conversion.json")
  output.parent.mkdir(parents=True, exist_ok=True)
  page = Path(options.MARKDOWN.value) if options.MARKDOWN.value else None
  if page:
    tables.check_markdown(page, _PLACE)
  scratch = Path(_SCRATCH.value or output.parent)
  scratch.mkdir(parents=True, exist_ok=True)
  found: list[Conversion] = []
  here = machine.describe()  # the revision at hand may be another one later
  with tempfile.TemporaryDirectory(dir=scratch) as folder:
    for conversion in measure(_SIZE.value, Path(folder)):
      found.append(conversion)
      write(found, here, output)
  shown = [table(found, _SIZE.value), report.goal_table(assess(found))]
  head = machine.sentence(here)
  print("\n\n".join([head, *map(tables.as_text, shown)]))
  print(f"\nresults: {output}")
  if page:
    text = "\n\n".join([head, *map(tables.as_markdown, shown)])
    tables.write_markdown(page, _PLACE, text)


def measure(size: str, folder: Path) -> Iterator[Conversion]:
  """Converts a checkpoint there and back.

  Args:
    size: Of the model, one of `SIZES`.
    folder: An empty one; what is no longer needed in it is deleted.
  """
  file, params = folder / _SAFETENSORS, folder / _PARAMS
  in_a_process(write_checkpoint, size, file)
  yield in_a_process(convert, "safetensors to parameters", size, file, params)
  back = folder / "back.safetensors"
  yield in_a_process(convert, "parameters to safetensors", size, params, back)
  back.unlink()
  shutil.rmtree(params)
  if published.version() is None:
    return
  in_a_process(write_torch, file, folder / _TORCH)
  file.unlink()
  yield in_a_process(
    convert, ".pt to parameters", size, folder / _TORCH, params
  )


def in_a_process(function: Callable[..., _Result], *arguments: Any) -> _Result:
  """Calls a function in a process of its own, and returns what it returns."""
  with concurrent.futures.ProcessPoolExecutor(
    max_workers=1, mp_context=multiprocessing.get_context("spawn")
  ) as pool:
    return pool.submit(function, *arguments).result()


def convert(name: str, size: str, source: Path, target: Path) -> Conversion:
  """Converts, and tells what this process took for it.

  Args:
    name: Of the conversion.
    size: Of the model.
    source: What to convert: a checkpoint, or a folder of parameters.
    target: Where to.
  """
  logging.set_verbosity(logging.ERROR)  # as cli.run does
  before, start = peak_bytes(), time.perf_counter()
  if to_torch.is_converted(source):
    to_torch.convert(source, target)
    checkpoint = target
  else:
    heads = {
      f"{tower}.num_heads": getattr(SIZES[size], tower).num_heads
      for tower in ("vision", "audio", "text")
    }
    fields = {**heads, "param_dtype": "float32"}
    from_torch.convert(source, target, from_torch.Options("pmrl", fields))
    checkpoint = source
  seconds = time.perf_counter() - start
  num_bytes = checkpoint.stat().st_size
  return Conversion(name, num_bytes, before, peak_bytes(), seconds)


def peak_bytes() -> int:
  """The most memory that this process has held so far."""
  try:
    # Of this program alone; what getrusage knows begins with the parent's.
    status = Path("/proc/self/status").read_text()
    (line,) = (x for x in status.splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
  except (OSError, ValueError):  # not Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_checkpoint(size: str, path: Path) -> None:
  """Writes random values under the official names, one tensor at a time."""
  model = models.MODELS["pmrl"]
  module = build_model(StepCase(size, 1, "float32", True))
  table = model.table(module, [])
  forms = to_tensors(models.parameters(model, module), table)
  places = places_of(table)

  def read(key: str) -> np.ndarray:
    # Several keys of one tensor have the same values.
    seed = zlib.crc32(str(places[key].slot).encode())
    values = np.random.default_rng(seed).random(forms[key].shape, np.float32)
    return values - np.float32(0.5)

  tensors = {
    key: form._replace(read=functools.partial(read, key))
    if key in places
    else form
    for key, form in forms.items()
  }
  total = sum(tensor.nbytes for tensor in tensors.values())
  with tqdm.tqdm(
    total=total, unit="B", unit_scale=True, desc=path.name, leave=False
  ) as bar:
    for key in write_safetensors(path, tensors):
      bar.update(tensors[key].nbytes)


def write_torch(source: Path, target: Path) -> None:
  """Writes the tensors of a .safetensors file as `torch.save` does."""
  import torch

  tensors = read_safetensors(source)
  torch.save(
    {key: torch.from_numpy(each.read()) for key, each in tensors.items()},
    target,
  )


def assess(conversions: list[Conversion]) -> list[Goal]:
  """Compares what was measured with the goal, which is one of large files."""
  return [
    at_most(
      f"peak / checkpoint, {each.name}",
      _BOUND,
      each.peak_bytes / each.checkpoint_bytes
      if each.checkpoint_bytes > _LARGE
      else math.nan,
    )
    for each in conversions
  ]


def table(conversions: list[Conversion], size: str) -> tables.Table:
  """What all conversions took."""
  return tables.Table(
    f"Memory of a conversion, published model, {size}: all of the process",
    ["", "checkpoint", "peak", "peak / checkpoint", "before", "seconds"],
    [
      [
        each.name,
        report.size(each.checkpoint_bytes),
        report.size(each.peak_bytes),
        f"{each.peak_bytes / each.checkpoint_bytes:.2f}",
        report.size(each.before_bytes),
        f"{each.seconds:.0f}",
      ]
      for each in conversions
    ],
  )


def write(
  conversions: list[Conversion], here: dict[str, Any], output: Path
) -> None:
  """Writes what was measured so far."""
  results = {
    "machine": here,
    "command": sys.argv,
    "size": _SIZE.value,
    "conversions": [each._asdict() for each in conversions],
    "goals": report.goals_as_json(assess(conversions)),
  }
  workdir.write_atomically(output, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
  cli.run(main)
