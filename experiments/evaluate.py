"""Measures a trained run again, from a checkpoint.

  python -m experiments.evaluate --workdir=runs/tri_modal

Writes `summary.json`, the figures and `report.html` anew. Galleries are fixed:
held-out data of which something is missing is an error (--strict), or its
figures come with the share of the gallery that is there (--allow_missing).
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments import build, cli, results
from experiments import workdir as workdirs
from pmrl_jax import training

_STEP = flags.DEFINE_string(
  "step", "latest", "Which checkpoint: latest, best, or the number of a step."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Where the results go. Default: the run's folder."
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
flags.adopt_module_key_flags(cli)


def main() -> None:
  """Evaluates from the flags."""
  run = Path(cli.WORKDIR.value)
  evaluate(
    run,
    _STEP.value,
    Path(_OUTPUT.value or run),
    allow_missing=_allow_missing(_STRICT.value, _ALLOW_MISSING.value),
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
  if allow_missing is not None:
    config.evaluation.allow_missing = allow_missing
  if output.is_file():
    raise ValueError(f"--output is a file, {output}; choose a folder")
  if not (folder / "checkpoints").is_dir():
    raise FileNotFoundError(f"{folder} has no checkpoints yet; train it first")
  checkpointer = build.build_checkpointer(config, folder, read_only=True)
  step = _choose_step(checkpointer, which)
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
    params=state.params,
    step=step,
  )


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


def _choose_step(checkpointer: training.Checkpointer, which: str) -> int:
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
  flags.mark_flag_as_required("workdir")
  cli.run(main)
