"""Trains a multimodal space and shows what it learned.

  python -m experiments.train --config=experiments/configs/tri_modal.py

The same command goes on where a killed run stopped. Any key of the config can
be overridden, as in `--config.steps=1000`. Exit codes: see experiments/cli.py.
On several hosts the same command runs on each: see experiments/cluster.py.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import (
  build,
  cli,
  cluster,
  config_flag,
  data_sets,
  results,
)
from experiments import workdir as workdirs
from pmrl_jax import training
from pmrl_jax.data import FailureLog, training_iterator

_PROFILE = flags.DEFINE_string(
  "profile",
  None,
  "Steps to trace, as 100:103 for 100, 101 and 102; the trace goes to "
  "<workdir>/profile, which TensorBoard and xprof read.",
)
flags.adopt_module_key_flags(config_flag)
flags.adopt_module_key_flags(cli)
flags.adopt_module_key_flags(cluster)


def main() -> None:
  """Trains from the flags."""
  cluster.start()
  config = config_flag.CONFIG.value
  path = config_flags.get_config_filename(flags.FLAGS["config"])
  workdir = Path(cli.WORKDIR.value or Path("runs") / Path(path).stem)
  train(config, workdir, profile=_PROFILE.value)


def train(
  config: ml_collections.ConfigDict,
  workdir: Path,
  *,
  profile: str | None = None,
) -> None:
  """Trains a run in its folder, from the start or from where it stopped.

  Args:
    config: The run's config.
    workdir: The run's folder.
    profile: Steps to trace; see `training.parse_steps`.

  Raises:
    ValueError: If something in the config, the data or the folder is wrong;
      nothing has been written then.
  """
  # All that can be wrong is built before the folder is touched.
  if cluster.is_primary():
    workdirs.check(workdir, config)
  cluster.wait_for_all("workdir checked")
  schedule = training.Schedule(
    steps=config.steps,
    log_every=config.log_every,
    eval_every=config.evaluation.every,
    checkpoint_every=config.checkpoint.every,
  )
  training.check_schedule(schedule)
  steps = (
    None if profile is None else training.parse_steps(profile, config.steps)
  )
  run = build.build_run(config)
  cluster.connect(run.mesh)
  training.check_batch_size(config.batch_size, run.mesh)
  iterator = training_iterator(
    run.data.train,
    batch_size=config.batch_size,
    seed=config.seed,
    transforms=data_sets.load_transforms(config, run.data.train.modalities),
    # Not in the configs of old runs.
    **config.get("pipeline", {}),
  )
  train_step = build.build_train_step(config, run)
  build.check_shapes(train_step, run, iterator)
  # Not in the configs of old runs.
  if config.get("init_from") and not workdirs.has_checkpoint(workdir):
    run = build.start_from(run, config.init_from)

  with contextlib.ExitStack() as stack:
    if cluster.is_primary():
      stack.enter_context(workdirs.claim(workdir, config))
    cluster.wait_for_all("workdir claimed")
    train_step = stack.enter_context(
      training.profiled(train_step, steps, workdir / "profile")
    )
    params = _fit(run, config, workdir, schedule, train_step, iterator)
    results.write_results(
      workdir,
      history=training.read_metrics(workdir) if cluster.is_primary() else [],
      config=config,
      run=run,
      params=params,
      step=config.steps,
    )


def _fit(
  run: build.Run,
  config: ml_collections.ConfigDict,
  workdir: Path,
  schedule: training.Schedule,
  train_step: Callable,
  iterator: Iterator,
) -> Any:
  """Restores the newest checkpoint, if any, and trains to the end.

  Returns:
    The final parameters.
  """
  state, step = run.state, 0
  checkpointer = build.build_checkpointer(config, workdir)
  notes = [*run.data.train.notes, *run.data.test.notes]
  if restored := checkpointer.restore(state, iterator):
    step, state, damaged = restored
    notes += [f"passed over: {reason}" for reason in damaged]
    print(f"resumed from step {step} in {workdir}")
  if cluster.is_primary():
    workdirs.log_session(workdir, step, notes)
  for note in notes:
    print(f"note: {note}")
  print(
    f"{len(run.data.train):,} training and {len(run.data.test):,} held-out "
    f"instances of {', '.join(run.data.train.modalities)}; "
    f"{workdirs.devices()}; {workdir}",
    flush=True,
  )
  failures = FailureLog(
    results.bad_examples(workdir),
    num_examples=len(run.data.train),
    max_share=config.data.get("max_bad_share", 0.0),
  )

  def to_device(batch: Mapping[str, Any]) -> Any:
    failures.add(batch["failures"])
    return training.shard_batch(build.model_inputs(batch), run.mesh)

  writer = None
  if cluster.is_primary():
    writer = training.MetricsWriter(workdir, step=step)
  try:
    state = training.fit(
      state,
      start=step,
      schedule=schedule,
      train_step=train_step,
      iterator=iterator,
      to_device=to_device,
      evaluate=lambda params: results.evaluate_split(
        run, params, config.evaluation.level
      ),
      checkpointer=checkpointer,
      writer=writer,
      max_skipped=config.max_skipped,
      failure_folder=workdir / "failure",
    )
  except BaseException as error:
    # Whoever stops alone must not wait for what the others save.
    together = isinstance(error, training.Interrupted | training.NonFiniteError)
    if cluster.is_alone() or together:
      _close(writer, checkpointer)
    raise
  _close(writer, checkpointer)
  return state.eval_params


def _close(
  writer: training.MetricsWriter | None, checkpointer: training.Checkpointer
) -> None:
  if writer is not None:
    writer.close()
  checkpointer.close()


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  cli.run(main)
