"""Measures a trained run again, from a checkpoint.

  python -m experiments.evaluate --workdir=runs/tri_modal

Writes `summary.json`, the figures and `report.html` anew.
"""

from pathlib import Path

from absl import flags

from experiments import build, cli, data_sets, results
from experiments import workdir as workdirs
from pmrl_jax import training

_STEP = flags.DEFINE_string(
  "step", "latest", "Which checkpoint: latest, best, or the number of a step."
)
_OUTPUT = flags.DEFINE_string(
  "output", None, "Where the results go. Default: the run's folder."
)
flags.adopt_module_key_flags(cli)


def main() -> None:
  """Evaluates from the flags."""
  run = Path(cli.WORKDIR.value)
  evaluate(run, _STEP.value, Path(_OUTPUT.value or run))


def evaluate(run: Path, which: str, output: Path) -> None:
  """Evaluates one checkpoint of a run.

  Args:
    run: The run's folder.
    which: `latest`, `best` or a step.
    output: Where the results go.

  Raises:
    FileNotFoundError: If there is no run or no such checkpoint.
    CheckpointError: If the checkpoint is damaged.
  """
  config = workdirs.read_config(run)
  if not (run / "checkpoints").is_dir():
    raise FileNotFoundError(f"{run} has no checkpoints yet; train it first")
  checkpointer = training.Checkpointer(
    run / "checkpoints",
    best_metric=config.checkpoint.best_metric,
    best_mode=config.checkpoint.best_mode,
    read_only=True,
  )
  step = _choose_step(checkpointer, which)
  mesh = training.data_mesh()
  data = data_sets.load_data(config)
  model = build.build_model(config, data)
  optimizer, _ = build.build_optimizer(config)
  state = training.replicate(
    build.initial_state(model, data, optimizer, config.seed), mesh
  )
  state = checkpointer.restore_step(step, state)
  results.write_results(
    output,
    run=run,
    config=config,
    data=data,
    embed=build.build_embedder(model, mesh, config.evaluation.batch_size),
    params=state.params,
    step=step,
  )


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
