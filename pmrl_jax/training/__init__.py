"""Training: how parameters change.

Nothing here knows an encoder, a data set or a metric: the model's apply
function, the loss, the iterator and the evaluator are handed in.
"""

from pmrl_jax.training.checkpoint import (
  Checkpointer,
  CheckpointError,
  check_retention,
)
from pmrl_jax.training.compilation import check_compiler_options
from pmrl_jax.training.flops import matmul_flops
from pmrl_jax.training.loop import (
  Interrupted,
  NonFiniteError,
  Schedule,
  check_schedule,
  fit,
)
from pmrl_jax.training.objectives import make_matching_objective
from pmrl_jax.training.optimizer import PUBLISHED_OPTIMIZER, make_optimizer
from pmrl_jax.training.params import (
  load_param,
  load_params,
  params_shapes,
  save_params,
)
from pmrl_jax.training.precision import make_loss_scale
from pmrl_jax.training.profile import parse_steps, profiled
from pmrl_jax.training.sharding import (
  check_batch_size,
  gather_for,
  make_mesh,
  replicate,
  replicated_jit,
  shard_batch,
  state_shardings,
)
from pmrl_jax.training.state import TrainState, create_state
from pmrl_jax.training.step import make_train_step
from pmrl_jax.training.throughput import THROUGHPUT
from pmrl_jax.training.writers import MetricsWriter, read_metrics

__all__ = [
  "CheckpointError",
  "Checkpointer",
  "Interrupted",
  "MetricsWriter",
  "NonFiniteError",
  "PUBLISHED_OPTIMIZER",
  "Schedule",
  "THROUGHPUT",
  "TrainState",
  "check_batch_size",
  "check_compiler_options",
  "check_retention",
  "check_schedule",
  "create_state",
  "fit",
  "gather_for",
  "load_param",
  "load_params",
  "make_loss_scale",
  "make_matching_objective",
  "make_mesh",
  "make_optimizer",
  "make_train_step",
  "matmul_flops",
  "params_shapes",
  "parse_steps",
  "profiled",
  "read_metrics",
  "replicate",
  "replicated_jit",
  "save_params",
  "shard_batch",
  "state_shardings",
]
