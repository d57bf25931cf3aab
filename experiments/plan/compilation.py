"""The training step of a run, compiled for devices that need not be there."""

import functools
import math
import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments.benchmarks import collectives
from experiments.benchmarks.compilation import temporary_bytes
from experiments.models import build_model
from experiments.objectives import (
  build_objective,
  build_optimizer,
  loss_of_devices,
)
from experiments.plan import shapes
from experiments.plan.targets import Target
from pmrl_jax import training
from pmrl_jax.training.sharding import batch_sharding, replicated

_OUT_OF_MEMORY = re.compile(r"out of memory|RESOURCE_EXHAUSTED", re.IGNORECASE)
# Compilers for TPUs differ in how they say so.
_USED = re.compile(
  r"(?:Used |required for [\w ]*\()([\d.]+)([KMGT]?)\)?"
  r" (?:of|exceeds available \w+) \(?([\d.]+)([KMGT]?)"
)
_UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Memory(NamedTuple):
  """Bytes on each device.

  The first three are those of arrays as they are split; the compiler pads some
  of them. `temporary` is beside them: gradients, what the backward pass keeps
  of the forward pass, gathered parameters, buffers of what is sent.
  """

  parameters: int
  optimizer: int  # moments, counters, and an average of parameters
  batch: int
  temporary: int | None  # None: it did not compile
  total: int | None  # at once: arguments, what is not written over them, the
  # rest, and the program


class Plan(NamedTuple):
  """A step compiled for a target, or why it was not."""

  topology: str
  mesh: Mapping[str, int]
  batch_per_device: int
  memory: Memory
  fits: bool | None  # None: the devices' memory is unknown, or not compiled
  flops: float  # of matrix products, all devices together
  traffic: Mapping[str, collectives.Traffic]  # of each device, by kind
  seconds: float  # to trace and to compile
  contrast: int | None = None  # temporaries of the contrastive part alone
  failure: str | None = None  # what the compiler said

  def num_devices(self) -> int:
    """How many devices the step runs on."""
    return math.prod(self.mesh.values())


class Step:
  """The step of a config on a target, to be compiled with any batch."""

  def __init__(
    self, config: ml_collections.ConfigDict, data: Any, target: Target
  ):
    """Builds what does not depend on the batch.

    Args:
      config: The run's config.
      data: Its shapes, see `shapes.find`.
      target: The devices.

    Raises:
      ValueError: If a value of the config is unknown or does not fit.
    """
    self._data, self._target = data, target
    self._mesh = training.make_mesh(config.get("mesh"), target.devices)
    self._dim = config.model.dim
    self._loss = functools.partial(
      loss_of_devices(config, self._mesh), **config.loss
    )
    model: Any = build_model(config, data, target.platform)
    optimizer, schedule = build_optimizer(config, model)
    key = jax.eval_shape(lambda: jax.random.key(0))
    decay = config.get("ema_decay")

    def start(key: jax.Array, inputs: Any) -> training.TrainState:
      params = model.init(key, inputs)["params"]
      return training.create_state(params, optimizer, ema=decay is not None)

    self._state = jax.eval_shape(start, key, shapes.inputs(data, 2))
    self._shardings = training.state_shardings(self._state, self._mesh)
    self._step: Any = training.make_train_step(
      build_objective(config, model, self._mesh),
      optimizer,
      schedule=schedule,
      seed=config.seed,
      max_skipped=config.max_skipped,
      mesh=self._mesh,
      shardings=self._shardings,
      ema_decay=decay,
    )

  def compile(self, batch_per_device: int) -> Plan:
    """Compiles the step; nothing is run.

    Args:
      batch_per_device: Instances on each device.

    Returns:
      The plan; one that does not fit has no temporaries if the compiler
      refused it.

    Raises:
      JaxRuntimeError: If the compiler failed for another reason.
    """
    start = time.perf_counter()
    plan, traced = self._outline(batch_per_device)
    try:
      compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
      if not _OUT_OF_MEMORY.search(str(error)):
        raise
      return plan._replace(
        fits=False,
        seconds=time.perf_counter() - start,
        failure=_reason(str(error)),
      )
    memory = _with_compiled(plan.memory, compiled)
    return plan._replace(
      memory=memory,
      fits=self._fits(memory),
      traffic=collectives.traffic(compiled.as_text() or "", self._mesh.size),
      seconds=time.perf_counter() - start,
    )

  def outline(self, batch_per_device: int) -> Plan:
    """What is known of a batch without a compiler: takes seconds."""
    return self._outline(batch_per_device)[0]

  def _outline(self, batch_per_device: int) -> tuple[Plan, Any]:
    """The plan before anything is compiled, and the traced step."""
    start = time.perf_counter()
    batch = shapes.batch(self._data, batch_per_device * self._mesh.size)
    traced = self._step.trace(self._state, batch)
    plan = Plan(
      self._target.name,
      dict(self._mesh.shape),
      batch_per_device,
      self._known_memory(batch),
      None,
      training.matmul_flops(traced.jaxpr),
      {},
      time.perf_counter() - start,
    )
    return plan, traced

  def with_contrast(self, plan: Plan) -> Plan:
    """Adds the temporaries of the contrastive part, compiled alone.

    That is value and gradient of the loss of given embeddings: its logits, and
    what it gathers. In the step they share memory with the rest.
    """
    batch = plan.batch_per_device * self._mesh.size
    shape = (batch, len(self._data.train.modalities), self._dim)
    split = batch_sharding(self._mesh)
    arguments = [
      jax.ShapeDtypeStruct(shape[:axes], dtype, sharding=split)
      for axes, dtype in ((3, "float32"), (2, bool), (1, "int32"))
    ]

    def loss(x: jax.Array, where: jax.Array, ids: jax.Array) -> jax.Array:
      return self._loss(x, where=where, ids=ids).loss

    compiled = (
      jax.jit(
        jax.value_and_grad(loss),
        out_shardings=(replicated(self._mesh), split),
      )
      .lower(*arguments)
      .compile()
    )
    return plan._replace(contrast=temporary_bytes(compiled))

  def _known_memory(self, batch: Any) -> Memory:
    """What is known without a compiler."""
    state, shardings = self._state, self._shardings
    params = _local_bytes(state.params, shardings.params)
    split = batch_sharding(self._mesh)
    return Memory(
      parameters=params,
      optimizer=_local_bytes(state, shardings) - params,
      batch=_local_bytes(batch, jax.tree.map(lambda _: split, batch)),
      temporary=None,
      total=None,
    )

  def _fits(self, memory: Memory) -> bool | None:
    if self._target.memory_bytes is None or memory.total is None:
      return None
    # A compiler that knows its device refuses what does not fit.
    known = self._target.compiler == "tpu"
    return known or memory.total <= self._target.memory_bytes


def _with_compiled(memory: Memory, compiled: jax.stages.Compiled) -> Memory:
  """Adds what only the compiler knows."""
  analysis = compiled.memory_analysis()
  if analysis is None:
    raise RuntimeError("the compiler tells nothing about memory")
  total = (
    analysis.argument_size_in_bytes
    + analysis.output_size_in_bytes
    - analysis.alias_size_in_bytes
    + analysis.temp_size_in_bytes
    + analysis.generated_code_size_in_bytes
  )
  return memory._replace(temporary=analysis.temp_size_in_bytes, total=total)


def _local_bytes(tree: Any, shardings: Any) -> int:
  """Bytes of a tree's parts on one device."""

  def size(array: Any, sharding: Any) -> int:
    shape = sharding.shard_shape(array.shape)
    return math.prod(shape) * array.dtype.itemsize

  return sum(jax.tree.leaves(jax.tree.map(size, tree, shardings)))


def _reason(error: str) -> str:
  """What the compiler says of the memory, in few words."""
  used = _USED.search(error)
  if not used:
    return error.splitlines()[0]
  needed, available = (
    float(used[i]) * 1024 ** _UNITS[used[i + 1]] / 1e9 for i in (1, 3)
  )
  return f"needs {needed:.1f} GB of {available:.1f}"
