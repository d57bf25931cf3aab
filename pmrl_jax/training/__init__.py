"""Training: how parameters change.

Nothing here knows an encoder, a data set or a metric: the model's apply
function, the loss, the iterator and the evaluator are handed in.
"""

from pmrl_jax.training.checkpoint import Checkpointer
from pmrl_jax.training.checkpoint import CheckpointError
from pmrl_jax.training.loop import Interrupted
from pmrl_jax.training.loop import NonFiniteError
from pmrl_jax.training.loop import Schedule
from pmrl_jax.training.loop import fit
from pmrl_jax.training.optimizer import make_optimizer
from pmrl_jax.training.sharding import check_batch_size
from pmrl_jax.training.sharding import data_mesh
from pmrl_jax.training.sharding import replicate
from pmrl_jax.training.sharding import replicated_jit
from pmrl_jax.training.sharding import shard_batch
from pmrl_jax.training.state import TrainState
from pmrl_jax.training.state import create_state
from pmrl_jax.training.step import make_train_step
from pmrl_jax.training.writers import MetricsWriter
from pmrl_jax.training.writers import read_metrics

__all__ = [
  "CheckpointError",
  "Checkpointer",
  "Interrupted",
  "MetricsWriter",
  "NonFiniteError",
  "Schedule",
  "TrainState",
  "check_batch_size",
  "create_state",
  "data_mesh",
  "fit",
  "make_optimizer",
  "make_train_step",
  "read_metrics",
  "replicate",
  "replicated_jit",
  "shard_batch",
]
