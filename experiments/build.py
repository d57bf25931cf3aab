"""Config -> objects: data, model, optimizer, compiled functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import initialisation
from experiments.data_sets import Data, load_data
from experiments.embedding import Embedder, build_embedder, model_inputs
from experiments.models import build_model
from experiments.objectives import (
  build_objective,
  build_optimizer,
  matching_options,
)
from experiments.reranking import Reranker, build_reranker
from pmrl_jax import encoders, evaluation, training
from pmrl_jax.data import Source


class Run(NamedTuple):
  """What training and evaluation have in common."""

  mesh: Mesh
  data: Data
  model: nn.Module
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  state: training.TrainState  # before the first step
  embed: Embedder
  rerank: Reranker | None = None  # of the published model, if it is wanted


def build_run(config: ml_collections.ConfigDict) -> Run:
  """Builds everything that a config describes, and checks it.

  Args:
    config: The run's config.

  Returns:
    The run.

  Raises:
    ValueError: If a value is unknown, out of range or does not fit the rest.
    TypeError: If an option does not exist.
    FileNotFoundError: If a data file is missing.
  """
  # Not in the configs of old runs.
  mesh = training.make_mesh(config.get("mesh"))
  training.check_batch_size(config.evaluation.batch_size, mesh)
  data = load_data(config)
  _check_evaluation(config, data)
  model = build_model(config, data)
  optimizer, learning_rate = build_optimizer(config, model)
  rerank = _reranker(config, model, mesh)
  state = _initial_state(model, data, optimizer, config, mesh)
  embed = build_embedder(
    model, mesh, config.evaluation.batch_size, allows_missing(config)
  )
  return Run(mesh, data, model, optimizer, learning_rate, state, embed, rerank)


def start_from(run: Run, folders: str) -> Run:
  """Replaces parameters of a run by those that were converted for it.

  Args:
    run: The run, before its first step.
    folders: What experiments.convert wrote, or runs; several with commas
      between them.

  Returns:
    The run. What no folder has stays as it was.

  Raises:
    ValueError: If a folder holds no parameters, or some that the model does
      not have or has in another shape.
    FileNotFoundError: If a folder is not there.
  """
  params = initialisation.replaced(
    run.state.params, folders.split(","), run.model
  )
  # Before the first step, moments are zero whatever the parameters are.
  state = run.state._replace(params=params)
  if state.ema is not None:
    state = state._replace(ema=jax.tree.map(jnp.copy, params))
  return run._replace(state=state)


def build_train_step(config: ml_collections.ConfigDict, run: Run) -> Callable:
  """Compiles the training step of a run; see `training.make_train_step`."""
  # Not in the configs of old runs.
  compiler_options = config.get("compiler_options", {})
  return training.make_train_step(
    build_objective(config, run.model, run.mesh),
    run.optimizer,
    schedule=run.learning_rate,
    seed=config.seed,
    max_skipped=config.max_skipped,
    mesh=run.mesh,
    shardings=training.state_shardings(run.state, run.mesh),
    ema_decay=config.get("ema_decay"),
    compiler_options=training.check_compiler_options(compiler_options),
  )


def check_shapes(train_step: Callable, run: Run, iterator: Any) -> None:
  """Traces the step without running it, so that misfits show at once.

  Args:
    train_step: From `build_train_step`.
    run: What it was built for.
    iterator: The data; its position is left as it is.

  Raises:
    ValueError: If a shape, a dtype or an option does not fit.
    TypeError: Likewise.
  """
  position = iterator.get_state()
  batch = training.shard_batch(model_inputs(next(iterator)), run.mesh)
  iterator.set_state(position)
  jax.eval_shape(train_step, run.state, batch)


def build_checkpointer(
  config: ml_collections.ConfigDict, workdir: Path, *, read_only: bool = False
) -> training.Checkpointer:
  """Opens the checkpoints of a run."""
  return training.Checkpointer(
    workdir / "checkpoints", **config.checkpoint.retention, read_only=read_only
  )


def allows_missing(config: ml_collections.ConfigDict) -> bool:
  """Whether held-out data may be incomplete; not in configs of old runs."""
  return config.evaluation.get("allow_missing", False)


def _initial_state(
  model: nn.Module,
  data: Data,
  optimizer: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
  mesh: Mesh,
) -> training.TrainState:
  """The state before the first step, from the seed alone.

  Each device makes its own part, so that no device ever holds the whole.
  """

  def start(key: jax.Array) -> training.TrainState:
    example = {
      modality: jnp.zeros((2, *spec.shape), spec.dtype)
      for modality, spec in data.train.spec.items()
    }
    params = model.init(key, example)["params"]
    is_scaled = config.precision == "float16"
    return training.create_state(
      params,
      optimizer,
      ema=config.get("ema_decay") is not None,
      loss_scale=training.make_loss_scale() if is_scaled else None,
    )

  key = jax.random.key(config.seed)
  shardings = training.state_shardings(jax.eval_shape(start, key), mesh)
  return jax.jit(start, out_shardings=shardings)(key)


def _reranker(
  config: ml_collections.ConfigDict, model: nn.Module, mesh: Mesh
) -> Reranker | None:
  """The re-ranking that `config.evaluation` asks for.

  Args:
    config: `evaluation.rerank` is the number of candidates, 0 for none;
      `evaluation.tasks` what is to be found, by default `matching.tasks`.
    model: The model.
    mesh: The devices.

  Returns:
    The function, or None.

  Raises:
    ValueError: If the number is out of range, or the model matches no texts.
  """
  options = config.evaluation
  matching = matching_options(config, model)
  count = options.get("rerank", 0)
  if count < 0 or (count and matching is None):
    raise ValueError(
      "config.evaluation.rerank must be 0 (off) or, for config.model.kind = "
      f"'pmrl', the number of candidates that are looked at again, got {count}"
    )
  if not count or matching is None:
    return None
  return build_reranker(
    cast(encoders.PMRLModel, model),
    mesh,
    tasks=options.get("tasks") or matching["tasks"],
    num_candidates=count,
    batch_size=options.batch_size,
    level=options.level,
    missing=allows_missing(config),
  )


def _check_evaluation(config: ml_collections.ConfigDict, data: Data) -> None:
  """Checks what would otherwise show at the first evaluation or checkpoint."""
  level, retention = config.evaluation.level, config.checkpoint.retention
  if level not in ("class", "instance"):
    raise ValueError(
      f"config.evaluation.level must be 'class' or 'instance', got {level!r}"
    )
  if level == "class" and (data.test.labels < 0).any():
    raise ValueError(
      "config.evaluation.level is 'class', but the held-out data has no "
      "labels; add them, or set it to 'instance'"
    )
  if not data.test.where.all() and not allows_missing(config):
    raise ValueError(
      f"the held-out data is incomplete ({_present_items(data.test)}), and "
      "figures of a smaller gallery are easier; complete it, or report them "
      "with their coverage: --config.evaluation.allow_missing=True for train, "
      "--allow_missing for evaluate"
    )
  training.check_retention(**retention)
  scalars = list(evaluation.SCALARS)
  if config.evaluation.get("rerank", 0):
    scalars.append(evaluation.RERANKED)
  if retention.best_metric not in scalars:
    raise ValueError(
      f"config.checkpoint.retention.best_metric must be one of {scalars}, got "
      f"{retention.best_metric!r}"
    )


def _present_items(source: Source) -> str:
  """How many items of each modality are there, a clip's sound counted once."""
  items, where = source.pairing(0), source.where
  counts = []
  for column, name in enumerate(source.modalities):
    present = len(np.unique(items[where[:, column], column]))
    total = len(np.unique(items[:, column]))
    counts.append(f"{name} {present:,} of {total:,}")
  return ", ".join(counts)
