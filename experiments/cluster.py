"""Several processes that train together: how they meet, and how they stop.

On pods and clusters that JAX knows, starting the same command on every host is
enough; elsewhere the flags say who is who. Process 0 alone writes files and
prints. If one process stops, whatever the reason, the others say which one it
was and stop as well, instead of waiting for it.
"""

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.watch import Watch

_COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "host:port of process 0, the same on all processes. Default: as the cluster "
  "says.",
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes",
  None,
  "How many processes train together. Default: as the cluster says.",
  lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id",
  None,
  "Which of them this is, from 0. Default: as the cluster says.",
  lower_bound=0,
)
_DISTRIBUTED = flags.DEFINE_enum(
  "distributed",
  "auto",
  ["auto", "on", "off"],
  "Whether this is one of several processes; auto: if --coordinator is given, "
  "or the environment is one of Slurm, Open MPI, Kubernetes or a TPU pod; on: "
  "JAX has to find out, as on TPU VMs, which it has to ask.",
)
_INITIALIZATION_TIMEOUT = flags.DEFINE_integer(
  "initialization_timeout",
  300,
  "Seconds until all processes must have met.",
  lower_bound=1,
)
_HEARTBEAT_TIMEOUT = flags.DEFINE_integer(
  "heartbeat_timeout",
  100,
  "Seconds without a sign of life after which a process counts as stopped.",
  lower_bound=2,
)

# JAX would abort without a message of ours; so it gets more time than we do.
_MARGIN = 30
_DAY_MS = 24 * 3600 * 1000

_watch: Watch | None = None


def detected(environment: Mapping[str, str]) -> str | None:
  """Which cluster has started this process as one of several, if any.

  Args:
    environment: As `os.environ`.

  Returns:
    Its name, or None: then this process is alone.
  """

  def number(name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else 0

  def hosts(name: str) -> int:
    return len([h for h in environment.get(name, "").split(",") if h.strip()])

  # A Slurm allocation without srun has no SLURM_STEP_NODELIST: the command was
  # started once, however many tasks there could be.
  if number("SLURM_NTASKS") > 1 and {
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_PROCID",
    "SLURM_LOCALID",
  } <= set(environment):
    return "Slurm"
  if (
    number("OMPI_COMM_WORLD_SIZE") > 1
    and "OMPI_MCA_orte_hnp_uri" in environment
  ):
    return "Open MPI"
  if number("MEGASCALE_NUM_SLICES") > 1:
    return "TPU slices"
  if max(hosts("TPU_WORKER_HOSTNAMES"), hosts("TPU_PROCESS_ADDRESSES")) > 1:
    return "TPU pod"
  # An indexed Job or a JobSet; any other pod of Kubernetes is alone.
  if (
    "KUBERNETES_SERVICE_HOST" in environment
    and "JOB_COMPLETION_INDEX" in environment
  ):
    return "Kubernetes"
  return None


def start() -> None:
  """Meets the other processes, if there are any, as the flags say.

  Must come before anything that touches a device.

  Raises:
    ValueError: If the flags contradict each other or say too little.
  """
  global _watch
  options = {
    "coordinator": _COORDINATOR.value,
    "num_processes": _NUM_PROCESSES.value,
    "process_id": _PROCESS_ID.value,
  }
  cluster = detected(os.environ)
  _check(_DISTRIBUTED.value, options, cluster)
  wanted = _DISTRIBUTED.value == "on" or cluster or options["coordinator"]
  if _DISTRIBUTED.value == "off" or not wanted or _watch is not None:
    return
  try:
    # Of the three, what is None is as the cluster says.
    _meet(options, _INITIALIZATION_TIMEOUT.value, _HEARTBEAT_TIMEOUT.value)
  except (ValueError, RuntimeError, OSError) as error:
    raise ValueError(
      f"the processes cannot meet ({options}, cluster: {cluster}): {error}"
    ) from error
  _watch = Watch(_HEARTBEAT_TIMEOUT.value)
  if _watch.index:
    sys.stdout = open(os.devnull, "w")


def is_primary() -> bool:
  """Whether this process writes files and prints."""
  return _watch is None or _watch.index == 0


def is_alone() -> bool:
  """Whether there are no other processes."""
  return _watch is None


def prefix() -> str:
  """What an error message begins with, so that one sees whose it is."""
  return "error: " if _watch is None else f"error: process {_watch.index}: "


def wait_for_all(name: str) -> None:
  """Waits until all processes have come to this point.

  If one of them stops, so does this process meanwhile.

  Args:
    name: Of the point, each of which is passed once.
  """
  if _watch is not None:
    _watch.client.wait_at_barrier(f"pmrl_jax/{name}", _DAY_MS)


def connect(mesh: Mesh) -> None:
  """Lets the devices of all processes find each other, while all wait for it.

  On CPUs (gloo) they give up after 30 s, and of the first step, which would do
  it otherwise, one process may be that much longer compiling than another.

  Args:
    mesh: The mesh whose axes are connected, each and both.
  """
  if _watch is None:
    return
  split = NamedSharding(mesh, PartitionSpec(*mesh.axis_names))
  shape = tuple(mesh.shape.values())
  ones = jax.jit(lambda: jnp.ones(shape), out_shardings=split)()
  outputs = [PartitionSpec()]
  outputs += [PartitionSpec(name) for name in reversed(mesh.axis_names)]
  sums = jax.jit(
    lambda x: (x.sum(), x.sum(0), x.sum(1)),
    out_shardings=tuple(NamedSharding(mesh, spec) for spec in outputs),
  ).lower(ones)
  compiled = sums.compile()
  wait_for_all("devices connected")
  jax.block_until_ready(compiled(ones))


def leave() -> None:
  """Ends together with the other processes."""
  if _watch is not None:
    wait_for_all("end")
    _watch.end()  # JAX leaves when Python ends, after its devices


def stop(message: str, code: int) -> NoReturn:
  """Ends this process after an error, and tells the others to end.

  Args:
    message: What they say of it; this process has said it.
    code: The exit code of all.
  """
  if _watch is not None:
    _watch.stop(message, code)
  sys.exit(code)


def await_verdict() -> None:
  """After a broken collective: waits until it is known who has stopped.

  Returns only if nobody has; otherwise the process ends meanwhile.
  """
  if _watch is not None:
    time.sleep(_watch.timeout + 4 * _watch.interval)


def _check(
  distributed: str, options: Mapping[str, Any], cluster: str | None
) -> None:
  given = {name: value for name, value in options.items() if value is not None}
  listed = " ".join(f"--{name}={value}" for name, value in given.items())
  if distributed == "off" and given:
    raise ValueError(f"--distributed=off contradicts {listed}")
  # With "on" JAX looks itself, also where that takes a while.
  if given and distributed != "on" and not cluster and len(given) < 3:
    raise ValueError(
      "no known cluster has started this process, so that --coordinator, "
      f"--num_processes and --process_id have all to be given, got {listed}"
    )
  index, count = options["process_id"], options["num_processes"]
  if index is not None and count is not None and index >= count:
    raise ValueError(
      f"expected --process_id from 0 to {count - 1}, got {index}"
    )
  host, _, port = (options["coordinator"] or "host:1").rpartition(":")
  if not host or not port.isdigit():
    raise ValueError(
      f"expected --coordinator=host:port, got {options['coordinator']!r}"
    )


def _meet(options: Mapping[str, Any], timeout: int, heartbeat: int) -> None:
  """Initializes `jax.distributed`, and stops if that takes too long."""
  index = options["process_id"]
  who = "" if index is None else f"process {index}: "

  def too_late() -> None:
    where = options["coordinator"] or "that the cluster names"
    print(
      f"error: {who}the processes have not met within {timeout} s: the "
      f"coordinator {where} (process 0) does not answer, or not all "
      f"{options['num_processes'] or ''} processes have started. Check that "
      "the address can be reached from here and that all run, or raise "
      "--initialization_timeout",
      file=sys.stderr,
      flush=True,
    )
    os._exit(2)

  timer = threading.Timer(timeout, too_late)
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      options["coordinator"],
      options["num_processes"],
      index,
      initialization_timeout=timeout + _MARGIN,
      heartbeat_timeout_seconds=heartbeat + _MARGIN,
    )
  finally:
    timer.cancel()
