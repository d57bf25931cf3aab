"""Config -> objects: data, model, optimizer, compiled functions."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import initialisation
from experiments.data_sets import Data, load_data
from experiments.models import build_model
from pmrl_jax import evaluation, training
from pmrl_jax.data import Source, evaluation_batches, first_instances
from pmrl_jax.evaluation import EmbeddingSet
from pmrl_jax.losses import gradient_cache, pmrl_loss
from pmrl_jax.training.step import Objective


class Run(NamedTuple):
  """What training and evaluation have in common."""

  mesh: Mesh
  data: Data
  model: nn.Module
  optimizer: optax.GradientTransformation
  learning_rate: optax.Schedule
  state: training.TrainState  # before the first step
  embed: Callable[..., EmbeddingSet]  # (parameters, split), see `_embedder`


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
  mesh = training.data_mesh()
  training.check_batch_size(config.evaluation.batch_size, mesh)
  data = load_data(config)
  _check_evaluation(config, data)
  model = build_model(config, data)
  optimizer, learning_rate = training.make_optimizer(
    steps=config.steps, **config.optimizer
  )
  state = training.replicate(
    _initial_state(model, data, optimizer, config.seed), mesh
  )
  embed = _embedder(
    model, mesh, config.evaluation.batch_size, allows_missing(config)
  )
  return Run(mesh, data, model, optimizer, learning_rate, state, embed)


def start_from(run: Run, folders: str) -> Run:
  """Replaces parameters of a run by those that were converted for it.

  Args:
    run: The run, before its first step.
    folders: What experiments.convert wrote; several with commas between them.

  Returns:
    The run. What no folder has stays as it was.

  Raises:
    ValueError: If a folder holds no parameters, or some that the model does
      not have or has in another shape.
    FileNotFoundError: If a folder is not there.
  """
  params = initialisation.replaced(run.state.params, folders.split(","))
  state = training.create_state(params, run.optimizer)
  return run._replace(state=training.replicate(state, run.mesh))


def build_train_step(config: ml_collections.ConfigDict, run: Run) -> Callable:
  """Compiles the training step of a run; see `training.make_train_step`."""
  return training.make_train_step(
    _objective(config, run.model),
    run.optimizer,
    schedule=run.learning_rate,
    seed=config.seed,
    max_skipped=config.max_skipped,
    mesh=run.mesh,
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


def model_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a batch that goes to the devices."""
  return {name: batch[name] for name in ("inputs", "where", "ids")}


def _objective(
  config: ml_collections.ConfigDict, model: nn.Module
) -> Objective:
  """The loss as a function of parameters, batch and key.

  Args:
    config: `loss` holds the keyword arguments of `pmrl_loss`;
      `micro_batch_size` says how many instances are encoded at a time.
    model: The model.

  Returns:
    The objective.
  """
  arguments = dict(config.loss)

  def encode(params: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
    return model.apply(
      {"params": params},
      batch["inputs"],
      where=batch["where"],
      train=True,
      rngs={"dropout": key},
    )

  if config.get("micro_batch_size") is not None:
    encode = gradient_cache(encode, micro_batch_size=config.micro_batch_size)

  def objective(
    params: Any, batch: Mapping[str, Any], key: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    embeddings, where = encode(params, batch, key)
    loss, alignment, instance, _ = pmrl_loss(
      embeddings, where=where, ids=batch["ids"], **arguments
    )
    return loss, {"alignment": alignment, "instance": instance}

  return objective


def _initial_state(
  model: nn.Module,
  data: Data,
  optimizer: optax.GradientTransformation,
  seed: int,
) -> training.TrainState:
  """The state before the first step, from the seed alone."""
  example = {
    modality: jnp.zeros((2, *spec.shape), spec.dtype)
    for modality, spec in data.train.spec.items()
  }
  params = jax.jit(model.init)(jax.random.key(seed), example)["params"]
  return training.create_state(params, optimizer)


def _embedder(
  model: nn.Module, mesh: Mesh, batch_size: int, missing: bool
) -> Callable[..., EmbeddingSet]:
  """The function that embeds a whole split.

  Args:
    model: The model.
    mesh: The devices; a batch is split over them.
    batch_size: Instances per global batch.
    missing: Whether what cannot be read is absent, and no error.

  Returns:
    `(params, source, allow_missing=missing) -> EmbeddingSet` with every
    instance of the source once.
  """

  # Replicated: every process gets the embeddings of all instances.
  @training.replicated_jit(mesh)
  def embed(params: Any, batch: Mapping[str, Any]) -> Any:
    return model.apply(
      {"params": params}, batch["inputs"], where=batch["where"]
    )

  def embed_source(
    params: Any, source: Source, *, allow_missing: bool = missing
  ) -> EmbeddingSet:
    parts = [
      jax.tree.map(
        np.asarray,
        embed(params, training.shard_batch(model_inputs(batch), mesh)),
      )
      for batch in evaluation_batches(
        source,
        batch_size=batch_size,
        distinct_items=True,
        allow_failures=allow_missing,
      )
    ]
    embeddings, where = (
      np.concatenate(each)[: len(source)] for each in zip(*parts)
    )
    # What was read once belongs to all instances that share it.
    first = np.maximum(first_instances(source), 0)
    columns = np.arange(first.shape[1])
    return EmbeddingSet(
      embeddings=embeddings[first, columns],
      where=source.where & where[first, columns],
      modalities=source.modalities,
      labels=source.labels if (source.labels >= 0).all() else None,
      items=source.pairing(0),
    )

  return embed_source


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
  if retention.best_metric not in evaluation.SCALARS:
    raise ValueError(
      "config.checkpoint.retention.best_metric must be one of "
      f"{list(evaluation.SCALARS)}, got {retention.best_metric!r}"
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
