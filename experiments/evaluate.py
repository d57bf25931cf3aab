r"""Measures a trained run again, or parameters that were not trained here.

  python -m experiments.evaluate --workdir=runs/tri_modal

from a checkpoint of the run, or without any training, as zero-shot figures are:

  python -m experiments.evaluate --config=experiments/configs/published.py \
    --config.init_from=params/pmrl --output=runs/zero_shot

Writes `summary.json`, the figures and `report.html` anew. Galleries are fixed:
held-out data of which something is missing is an error (--strict), or its
figures come with the share of the gallery that is there (--allow_missing).
"""

from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from experiments import build, cli, cluster, config_flag, results
from experiments import workdir as workdirs
from pmrl_jax import training

STEP = flags.DEFINE_string(
  "step", "latest", "Which checkpoint: latest, best, or the number of a step."
)
_OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Where the results go. Default: the run's folder; has to be given with "
  "--config.",
)
_STRICT = flags.DEFINE_bool(
  "strict",
  None,
  "Refuse figures of held-out data of which an item is missing or cannot be "
  "read. Default: true, unless the run's config has evaluation.allow_missing.",
)
_ALLOW_MISSING = flags.DEFINE_bool(
  "allow_missing",
  None,
  "The opposite of --strict: report them, with their coverage in the same "
  "line: the share of the gallery's items that are there.",
)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(cluster)


def main() -> None:
  """Evaluates from the flags."""
  cluster.start()
  config, folder = config_flag.CONFIG.value, cli.WORKDIR.value
  allow_missing = _allow_missing(_STRICT.value, _ALLOW_MISSING.value)
  if (config is None) == (folder is None):
    raise ValueError(
      "expected either --workdir, the folder of a run, or --config, whose "
      "config.init_from names parameters to measure as they are"
    )
  if config is not None:
    if not _OUTPUT.value:
      raise ValueError("expected --output: where the results of --config go")
    evaluate_start(config, Path(_OUTPUT.value), allow_missing=allow_missing)
    return
  evaluate(
    Path(folder),
    STEP.value,
    Path(_OUTPUT.value or folder),
    allow_missing=allow_missing,
  )


def evaluate_start(
  config: ml_collections.ConfigDict,
  output: Path,
  *,
  allow_missing: bool | None = None,
) -> None:
  """Evaluates the parameters that a run would start from.

  Args:
    config: The config; `init_from` names the parameters.
    output: Where the results go.
    allow_missing: Whether held-out data may be incomplete; None as the config
      says.

  Raises:
    FileNotFoundError: If there are no such parameters.
    ValueError: If the config names none, they do not fit the model, or
      held-out data is incomplete, and that is not allowed.
  """
  if not config.get("init_from"):
    raise ValueError(
      "config.init_from is empty, and random parameters are not worth "
      "measuring; give --config.init_from=FOLDER, which experiments.convert "
      "wrote, or the --workdir of a run"
    )
  _prepare(config, output, allow_missing)
  run = build.start_from(build.build_run(config), config.init_from)
  results.write_results(
    output,
    history=[],
    config=config,
    run=run,
    params=run.state.eval_params,
    step=0,
  )


def evaluate(
  folder: Path,
  which: str,
  output: Path,
  *,
  allow_missing: bool | None = None,
) -> None:
  """Evaluates one checkpoint of a run.

  Args:
    folder: The run's folder.
    which: `latest`, `best` or a step.
    output: Where the results go.
    allow_missing: Whether held-out data may be incomplete; None as the run's
      config says.

  Raises:
    FileNotFoundError: If there is no run or no such checkpoint.
    ValueError: If held-out data is incomplete, and that is not allowed.
    CheckpointError: If the checkpoint is damaged.
  """
  config = workdirs.read_config(folder)
  _prepare(config, output, allow_missing)
  _fit_mesh(config)
  if not (folder / "checkpoints").is_dir():
    raise FileNotFoundError(f"{folder} has no checkpoints yet; train it first")
  checkpointer = build.build_checkpointer(config, folder, read_only=True)
  step = choose_step(checkpointer, which)
  run = build.build_run(config)
  try:
    state = checkpointer.restore_step(step, run.state)
  except Exception as error:  # orbax and its readers raise many types
    raise training.CheckpointError(
      f"the checkpoint of step {step} in {folder} is damaged; --step can be "
      f"any of {checkpointer.steps()}. {type(error).__name__}: {error}"
    ) from error
  results.write_results(
    output,
    history=_history(folder, step),
    config=config,
    run=run,
    params=state.eval_params,
    step=step,
  )


def _prepare(
  config: ml_collections.ConfigDict, output: Path, allow_missing: bool | None
) -> None:
  """Sets what the flags say, and checks where the results go."""
  if allow_missing is not None:
    with config.unlocked():
      config.evaluation.allow_missing = allow_missing
  if output.is_file():
    raise ValueError(f"--output is a file, {output}; choose a folder")


def _fit_mesh(config: ml_collections.ConfigDict) -> None:
  """Splits parameters over the devices here, if the run's mesh has others."""
  try:
    training.make_mesh(config.get("mesh"))
  except ValueError:
    with config.unlocked():
      config.mesh = {"data": 1, "fsdp": -1}


def _allow_missing(strict: bool | None, allow: bool | None) -> bool | None:
  """What --strict and --allow_missing say together."""
  if strict is None:
    return allow
  if allow == strict:
    raise ValueError(
      "--strict and --allow_missing are opposites; give only one of them"
    )
  return not strict


def _history(folder: Path, step: int) -> list[dict[str, Any]]:
  """The metrics of a run up to a step."""
  return [row for row in training.read_metrics(folder) if row["step"] <= step]


def choose_step(checkpointer: training.Checkpointer, which: str) -> int:
  """The step that `--step` names.

  Args:
    checkpointer: The checkpoints of a run.
    which: `latest`, `best` or a step.

  Raises:
    FileNotFoundError: If there are no checkpoints.
    ValueError: If there is none of this step.
  """
  steps = checkpointer.steps()
  if not steps:
    raise FileNotFoundError("the run has no checkpoints yet; train it first")
  if which == "latest":
    return steps[-1]
  if which == "best":
    best = checkpointer.best_step()
    return steps[-1] if best is None else best
  if which.isdigit() and int(which) in steps:
    return int(which)
  raise ValueError(
    f"--step must be latest, best or one of {steps}, got {which!r}"
  )


if __name__ == "__main__":
  cli.run(main)
