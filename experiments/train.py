"""Trains a multimodal space and shows what it learned.

  python -m experiments.train --config=experiments/configs/tri_modal.py

The same command goes on where a killed run stopped. Any key of the config can
be overridden, as in `--config.steps=1000`. Exit codes: see experiments/cli.py.
"""

from pathlib import Path

import ml_collections
from absl import flags
from ml_collections import config_flags

from experiments import build, cli, data_sets, results
from experiments import workdir as workdirs
from pmrl_jax import training
from pmrl_jax.data import training_iterator

_CONFIG = config_flags.DEFINE_config_file(
  "config",
  None,
  "The experiment: a Python file with a get_config().",
  lock_config=True,
)
flags.adopt_module_key_flags(cli)


def main() -> None:
  """Trains from the flags."""
  config = cli.config_of(_CONFIG)
  path = config_flags.get_config_filename(flags.FLAGS["config"])
  train(config, Path(cli.WORKDIR.value or Path("runs") / Path(path).stem))


def train(config: ml_collections.ConfigDict, workdir: Path) -> None:
  """Trains a run in its folder, from the start or from where it stopped.

  Args:
    config: The run's config.
    workdir: The run's folder.

  Raises:
    ValueError: If something in the config, the data or the folder is wrong;
      nothing has been written then.
  """
  # All that can be wrong is built before the folder is touched.
  workdirs.check(workdir, config)
  mesh = training.data_mesh()
  training.check_batch_size(config.batch_size, mesh)
  training.check_batch_size(config.evaluation.batch_size, mesh)
  schedule = training.Schedule(
    steps=config.steps,
    log_every=config.log_every,
    eval_every=config.evaluation.every,
    checkpoint_every=config.checkpoint.every,
  )
  training.check_schedule(schedule)
  data = data_sets.load_data(config)
  results.check(config, data)
  model = build.build_model(config, data)
  optimizer, learning_rate = build.build_optimizer(config)
  iterator = training_iterator(
    data.train,
    batch_size=config.batch_size,
    seed=config.seed,
    transforms=data_sets.load_transforms(config, data.train.modalities),
  )
  train_step = training.make_train_step(
    build.build_objective(config, model),
    optimizer,
    schedule=learning_rate,
    seed=config.seed,
    max_skipped=config.max_skipped,
    mesh=mesh,
  )
  embed = build.build_embedder(model, mesh, config.evaluation.batch_size)
  state = training.replicate(
    build.initial_state(model, data, optimizer, config.seed), mesh
  )
  build.check_shapes(train_step, state, iterator, mesh)

  with workdirs.claim(workdir, config):
    checkpointer = training.Checkpointer(
      workdir / "checkpoints",
      keep=config.checkpoint.keep,
      best_metric=config.checkpoint.best_metric,
      best_mode=config.checkpoint.best_mode,
    )
    notes = [*data.train.notes, *data.test.notes]
    step = 0
    if restored := checkpointer.restore(state, iterator):
      step, state, damaged = restored
      notes += [f"passed over: {reason}" for reason in damaged]
      print(f"resumed from step {step} in {workdir}")
    workdirs.log_session(workdir, step, notes)
    for note in notes:
      print(f"note: {note}")
    writer = training.MetricsWriter(workdir, step=step)
    try:
      state = training.fit(
        state,
        start=step,
        schedule=schedule,
        train_step=train_step,
        iterator=iterator,
        to_device=lambda batch: training.shard_batch(
          build.model_inputs(batch), mesh
        ),
        evaluate=lambda params: results.evaluate_split(
          embed, params, data, config.evaluation.level
        ),
        checkpointer=checkpointer,
        writer=writer,
        max_skipped=config.max_skipped,
        failure_folder=workdir / "failure",
      )
    finally:
      writer.close()
      checkpointer.close()
    results.write_results(
      workdir,
      run=workdir,
      config=config,
      data=data,
      embed=embed,
      params=state.params,
      step=config.steps,
    )


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  cli.run(main)
