r"""Exports the parameters in a checkpoint as one .safetensors file.

  python -m experiments.export --workdir=runs/digits --to=digits.safetensors

of a run's best checkpoint, or of that of --step. Names are the paths of the
parameters with slashes between, shapes and dtypes are as in training; another
run starts from the file by --config.init_from=FILE. With --names=torch those
of the published model get the names and shapes of the official PyTorch code,
and `experiments.convert --model=pmrl` reads them back.

Needs no data. One array is in memory at a time. The header holds the run's
config and the step.

Exit codes: 0 done; 2 a mistake in the flags, or a checkpoint that is damaged
or not there (one message; nothing was written); 130 interrupted.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_collections
import numpy as np
from absl import flags

import pmrl_jax
from experiments import build, cli, evaluate
from experiments import workdir as workdirs
from experiments.models import build_model
from experiments.prepare.options import progress
from pmrl_jax import training
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.safetensors_files import write_safetensors
from pmrl_jax.weights.state_dict import to_tensors
from pmrl_jax.weights.tables import Entry
from pmrl_jax.weights.tensors import LazyTensor
from pmrl_jax.weights.trees import flat, listing, nested

SUFFIX = ".safetensors"
FLAX, TORCH = "flax", "torch"

_TO = flags.DEFINE_string(
  "to",
  None,
  "The .safetensors file to write.",
  # Other programs have a flag of this name, too.
  allow_override=True,
)
_NAMES = flags.DEFINE_enum(
  "names", FLAX, [FLAX, TORCH], "Whose names and shapes arrays have."
)
_EMA = flags.DEFINE_bool(
  "ema", False, "Export the moving average of the parameters instead."
)
_OVERWRITE = flags.DEFINE_bool(
  "overwrite",
  False,
  "Replace the file at --to, once the new one is whole.",
  allow_override=True,
)
flags.adopt_module_key_flags(cli)
flags.declare_key_flag("step")


def main() -> None:
  """Exports from the flags."""
  folder, target = cli.WORKDIR.value, _TO.value
  if not folder or not target:
    raise ValueError(
      "expected --workdir, the folder of a run, and --to, the file to write"
    )
  export(
    Path(folder),
    Path(target),
    # Of evaluate.py, where the default is another.
    step=evaluate.STEP.value if evaluate.STEP.present else "best",
    ema=_EMA.value,
    names=_NAMES.value,
    overwrite=_OVERWRITE.value,
  )


def export(
  folder: Path,
  target: Path,
  *,
  step: str = "best",
  ema: bool = False,
  names: str = FLAX,
  overwrite: bool = False,
) -> None:
  """Writes the parameters of a checkpoint to a file.

  Args:
    folder: The run's folder.
    target: The file.
    step: Which checkpoint: `best`, `latest` or the number of a step.
    ema: Whether to write their moving average.
    names: "flax", or "torch" for the published model.
    overwrite: Whether the file may be there.

  Raises:
    FileNotFoundError: If there is no run, or it has no checkpoints.
    ValueError: If the file is there, the step is not, the run has no moving
      average or no names of PyTorch, or the checkpoint is damaged.
  """
  _check_target(target, overwrite)
  config = workdirs.read_config(folder)
  if ema and config.get("ema_decay") is None:
    raise ValueError(
      f"the run in {folder} has no moving average (config.ema_decay is not "
      "set); leave out --ema"
    )
  if names == TORCH and config.model.get("kind") != "pmrl":
    raise ValueError(
      "--names=torch is for config.model.kind = 'pmrl', which the names are "
      f"known of, got {config.model.get('kind', 'multimodal')!r}; leave it out"
    )
  number = _step(config, folder, step)
  saved = folder / "checkpoints" / str(number) / "state"
  tensors = _tensors(saved, "ema" if ema else "params")
  if names == TORCH:
    tensors = _renamed(tensors, config)
  _write(
    target,
    tensors,
    {
      "format": {FLAX: "flax", TORCH: "pt"}[names],
      "config": config.to_json(),
      "step": str(number),
      "parameters": "moving average" if ema else "trained",
      "pmrl_jax": pmrl_jax.__version__,
    },
  )
  size = sum(tensor.nbytes for tensor in tensors.values()) / 1e6
  print(f"{target}: {len(tensors):,} arrays, {size:,.1f} MB, of step {number}")


def _check_target(target: Path, overwrite: bool) -> None:
  """Checks that a file can be written, and nothing is lost by it."""
  if target.suffix != SUFFIX:
    raise ValueError(f"--to must be a {SUFFIX} file, got {target}")
  if target.is_dir():
    raise ValueError(f"--to={target} is a folder; choose another name")
  if target.exists() and not overwrite:
    raise ValueError(
      f"--to={target} is there already; choose another name, or replace it "
      "with --overwrite"
    )
  for path in target.parents:
    if path.is_file():
      raise ValueError(f"--to={target} cannot be there: {path} is a file")


def _step(config: ml_collections.ConfigDict, folder: Path, which: str) -> int:
  """The step of a checkpoint."""
  if not (folder / "checkpoints").is_dir():
    raise FileNotFoundError(f"{folder} has no checkpoints yet; train it first")
  checkpointer = build.build_checkpointer(config, folder, read_only=True)
  try:
    return evaluate.choose_step(checkpointer, which)
  finally:
    checkpointer.close()


def _tensors(saved: Path, part: str) -> dict[str, LazyTensor]:
  """The parameters in a checkpoint by their paths, still in it."""
  shapes = flat(training.params_shapes(saved, part))

  def reader(name: str) -> Callable[[], np.ndarray]:
    return lambda: training.load_param(saved, name, shapes[name], part)

  return {
    name: LazyTensor(tuple(spec.shape), np.dtype(spec.dtype), reader(name))
    for name, spec in shapes.items()
  }


@dataclasses.dataclass(frozen=True)
class _Parameter:
  """A parameter as an array that is read when its values are asked for."""

  name: str
  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[str], np.ndarray]

  def __getitem__(self, index: Any) -> np.ndarray:
    return self.read(self.name)[index]

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
    del dtype, copy
    return self.read(self.name)


def _renamed(
  tensors: Mapping[str, LazyTensor], config: ml_collections.ConfigDict
) -> dict[str, LazyTensor]:
  """Parameters of the published model as the official code has them.

  Raises:
    ValueError: If there are parameters that it does not have.
  """
  parts = {name.partition("/")[0] for name in tensors}
  modalities = [m for m in config.model.modalities if f"heads_{m}" in parts]
  # All that a model needs to know of its data.
  data: Any = SimpleNamespace(
    train=SimpleNamespace(modalities=modalities), vocabulary_sizes={}
  )
  model: Any = build_model(config, data)
  table = published_table(model)
  known = {line.path for line in table if isinstance(line, Entry)}
  if unknown := [name for name in tensors if name not in known]:
    raise ValueError(
      f"{len(unknown)} parameters have no official names; export them without "
      f"--names=torch:{listing(unknown)}"
    )

  # Its layers are asked for one after another.
  @functools.lru_cache(maxsize=1)
  def read(name: str) -> np.ndarray:
    return tensors[name].read()

  params = {
    name: _Parameter(name, tensor.shape, tensor.dtype, read)
    for name, tensor in tensors.items()
  }
  return to_tensors(nested(params), table)


def _write(
  target: Path, tensors: Mapping[str, LazyTensor], metadata: dict[str, str]
) -> None:
  """Writes the file; it gets its name once it is whole."""
  target.parent.mkdir(parents=True, exist_ok=True)
  total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
  with progress("B") as tell:
    for key in write_safetensors(target, tensors, metadata=metadata):
      done += tensors[key].nbytes
      tell(done, total)


if __name__ == "__main__":
  cli.run(main)
