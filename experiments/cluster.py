"""Several processes that train together: how they meet, and how they stop.

On pods and clusters that JAX knows, starting the same command on every host is
enough; elsewhere the flags say who is who. Process 0 alone writes files and
prints. If one process stops, whatever the reason, the others say which one it
was and stop as well, instead of waiting for it.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import jax
from absl import flags

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
_STOPPED = "pmrl_jax/stopped/"
_ALIVE = "pmrl_jax/alive/"
_DAY_MS = 24 * 3600 * 1000

_watch: "_Watch | None" = None


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
  _watch = _Watch(_HEARTBEAT_TIMEOUT.value)
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


def leave() -> None:
  """Ends together with the other processes."""
  global _watch
  if _watch is None:
    return
  wait_for_all("end")
  _watch.end()
  _watch = None  # JAX leaves when Python ends, after its devices


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


class _Watch:
  """Gives signs of life, looks for those of others, and ends with them.

  They go through the key-value store of the coordinator, which JAX keeps to
  itself and orbax uses in the same way.
  """

  def __init__(self, timeout: int):
    from jax._src import distributed

    state = distributed.global_state
    self.client: Any = state.client
    self.index = int(state.process_id)
    self.timeout = timeout
    self.interval = min(timeout / 8, 2.0)
    self._count = int(state.num_processes)
    self._ended = threading.Event()
    self._last_words = _LastWords(self.index)
    threading.Thread(target=self._run, daemon=True).start()

  def stop(self, message: str, code: int) -> NoReturn:
    """Ends this process, and through the store all others."""
    self._ended.set()
    self._tell(self.index, message, code)
    if self.index == 0:  # the store ends with this process
      time.sleep(3 * self.interval)
    self._exit(code)

  def end(self) -> None:
    """Ends the watch of a process that has come to its end."""
    self._ended.set()
    self._last_words.drop()

  def _run(self) -> None:
    seen: dict[str, tuple[str, float]] = {}
    count = 0
    while not self._ended.wait(self.interval):
      count += 1
      try:
        self.client.key_value_set(f"{_ALIVE}{self.index}", str(count), True)
        if self.index == 0:
          self._look_for_silence(seen)
        stopped = self.client.key_value_dir_get(_STOPPED)
      except jax.errors.JaxRuntimeError as error:
        if self._ended.is_set():
          return
        reason = str(error).splitlines()[0]
        self._say(0, f"its store does not answer any more ({reason})")
        self._exit(1)
      if stopped and not self._ended.is_set():
        verdict = json.loads(stopped[0][1])
        self._say(verdict["process"], verdict["message"])
        if self.index == 0:  # until all have read it
          time.sleep(3 * self.interval)
        self._exit(verdict["code"])

  def _look_for_silence(self, seen: dict[str, tuple[str, float]]) -> None:
    """Tells all of a process that gives no sign of life any more."""
    now = time.monotonic()
    signs = dict(self.client.key_value_dir_get(_ALIVE))
    for index in range(self._count):
      sign = signs.get(f"{_ALIVE}{index}", "")
      last, since = seen.setdefault(str(index), (sign, now))
      if sign != last:
        seen[str(index)] = (sign, now)
      elif now - since > self.timeout:
        self._tell(
          index,
          f"it has given no sign of life for {self.timeout} s: it was killed, "
          "or its host is down or cannot be reached",
          1,
        )

  def _tell(self, index: int, message: str, code: int) -> None:
    verdict = {"process": index, "message": message, "code": code}
    try:
      self.client.key_value_set(_STOPPED + "first", json.dumps(verdict))
    except jax.errors.JaxRuntimeError:
      pass  # another was faster, or nobody is there to be told

  def _say(self, index: int, message: str) -> None:
    print(
      f"error: process {self.index}: stopped, since process {index} stopped: "
      f"{message}",
      file=sys.stderr,
      flush=True,
    )

  def _exit(self, code: int) -> NoReturn:
    """Ends at once: an orderly end would wait for the others."""
    self._last_words.drop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _LastWords:
  """A message of a process that ends too suddenly to say anything.

  When the coordinator is gone, JAX aborts the other processes at once, and a
  process that is killed says nothing anyway. A shell outlives it and does.
  """

  def __init__(self, index: int):
    message = (
      f"error: process {index}: ended without a word: it was killed, or JAX "
      "stopped it (its reason is above), as it does when process 0, the "
      "coordinator, has stopped"
    )
    # SIGINT and SIGTERM go to groups of processes, and are none of its matter.
    self._shell = subprocess.Popen(
      ["sh", "-c", 'trap "" INT TERM; read -r _ || echo "$0" >&2', message],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
    )

  def drop(self) -> None:
    """Lets the process end without them."""
    if self._shell.stdin is not None and not self._shell.stdin.closed:
      try:
        self._shell.stdin.write(b"\n")
        self._shell.stdin.close()
      except BrokenPipeError:
        pass
      self._shell.wait()
