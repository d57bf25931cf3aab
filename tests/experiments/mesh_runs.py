"""A few steps of two runs on several meshes, in one process or in several.

  python -m tests.experiments.mesh_runs FOLDER [ADDRESS COUNT INDEX]

Takes all devices that there are: with one, there is one mesh. Process 0 writes
an `.npz` for each run and mesh.
"""

import sys
from pathlib import Path

import flax
import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments import build, results
from experiments.configs import pmrl_vast150k as published_config
from experiments.configs import tri_modal as tri_modal_config
from experiments.models import build_model
from experiments.objectives import build_objective, build_optimizer
from experiments.plan import shapes
from pmrl_jax import training
from pmrl_jax.data import training_iterator
from tests.experiments.tiny_published import TINY_INPUTS, tiny_model

STEPS, BATCH = 4, 16
# {number of devices: meshes}, data x fsdp.
MESHES = {1: ("1x1",), 8: ("8x1", "1x8", "4x2")}
# Smaller arrays are not split; those of small models would all be smaller.
MIN_SPLIT_SIZE = 32


def tri_modal(axes):
  """The run that ships, with small encoders, an average, and an evaluation.

  Args:
    axes: Sizes of the mesh.

  Returns:
    Losses, trees of parameters, and what was measured.
  """
  config = tri_modal_config.get_config()
  config.batch_size, config.mesh, config.ema_decay = BATCH, axes, 0.9
  config.optimizer.warmup_steps = 1
  for encoder in config.model.encoders.values():
    encoder.update(width=16, depth=1, num_heads=2)
  run = build.build_run(config)
  iterator = training_iterator(
    run.data.train, batch_size=BATCH, seed=config.seed
  )
  step, state, losses = build.build_train_step(config, run), run.state, []
  for _ in range(STEPS):
    batch = build.model_inputs(next(iterator))
    state, metrics = step(state, training.shard_batch(batch, run.mesh))
    losses.append(metrics["loss"])
  row = results.evaluate_split(run, state.eval_params, "class")
  trees = {"params": state.params, "ema": state.ema}
  return losses, trees, row["mean_R@1"]


def published(axes):
  """The published model, tiny, with all its terms, on inputs made up.

  Args:
    axes: Sizes of the mesh.

  Returns:
    Losses, trees of parameters, and that nothing was measured.
  """
  config = published_config.get_config()
  config.precision = "float32"
  config.update_from_flattened_dict({**TINY_INPUTS, **tiny_model(depth=2)})
  config.optimizer.warmup_steps = 1
  config.optimizer.learning_rate = 1e-3
  data = shapes.find(config).data
  mesh = training.make_mesh(axes)
  model = build_model(config, data)
  optimizer, schedule = build_optimizer(config, model)
  inputs = _make_up(data, BATCH)

  def start():
    params = model.init(
      jax.random.key(0), jax.tree.map(lambda x: x[:2], inputs)
    )["params"]
    return training.create_state(params, optimizer)

  shardings = training.state_shardings(jax.eval_shape(start), mesh)
  step = training.make_train_step(
    build_objective(config, model, mesh),
    optimizer,
    schedule=schedule,
    seed=config.seed,
    max_skipped=1,
    mesh=mesh,
    shardings=shardings,
  )
  batch = {
    "inputs": inputs,
    "where": np.ones((BATCH, len(inputs)), bool),
    "ids": np.arange(BATCH, dtype=np.int32),
  }
  batch["where"][::5, 2] = False  # some videos have no sound
  share = BATCH // jax.process_count()
  mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
  state, losses = jax.jit(start, out_shardings=shardings)(), []
  for _ in range(STEPS):
    local = jax.tree.map(lambda x: x[mine], batch)
    state, metrics = step(state, training.shard_batch(local, mesh))
    losses.append(metrics["loss"])
  return losses, {"params": state.params}, 0.0


RUNS = (tri_modal, published)


def _make_up(data, batch_size):
  """Inputs of the right shapes."""
  rng = np.random.default_rng(0)
  inputs = {}
  for name, shape in shapes.inputs(data, batch_size).items():
    if np.issubdtype(shape.dtype, np.integer):
      most = data.vocabulary_sizes.get(name, 256)
      made = rng.integers(1, most, shape.shape)
    else:
      made = rng.normal(size=shape.shape)
    inputs[name] = made.astype(shape.dtype)
  return inputs


def _write(path, losses, trees, measured):
  """Writes what is on all processes, from one."""
  split = [not x.is_fully_replicated for x in jax.tree.leaves(trees["params"])]
  whole = multihost_utils.process_allgather(trees, tiled=True)
  if jax.process_index() == 0:
    np.savez(
      path,
      losses=[float(loss) for loss in losses],
      measured=measured,
      num_split=sum(split),
      **flax.traverse_util.flatten_dict(whole, sep="/"),
    )


def main(folder, address=None, count=1, index=0):
  """Makes all runs on all meshes."""
  if address is not None:
    jax.distributed.initialize(address, int(count), int(index))
  assert jax.process_count() == int(count)
  training.sharding.MIN_SPLIT_SIZE = MIN_SPLIT_SIZE
  for mesh in MESHES[len(jax.devices())]:
    axes = dict(zip(("data", "fsdp"), map(int, mesh.split("x"))))
    for run in RUNS:
      _write(Path(folder) / f"{run.__name__}_{mesh}.npz", *run(axes))


if __name__ == "__main__":
  main(*sys.argv[1:])
