"""Processes that look after each other: a sign of life, and an end together.

A collective waits for all processes, so that without a watch the loss of one
would leave the others waiting.
"""

import json
import os
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

import jax

_STOPPED = "pmrl_jax/stopped/"
_ALIVE = "pmrl_jax/alive/"


class Watch:
  """Gives signs of life, looks for those of others, and ends with them.

  They go through the key-value store of the coordinator, which JAX keeps to
  itself and orbax uses in the same way.
  """

  def __init__(self, timeout: int):
    """Starts to watch.

    Args:
      timeout: Seconds without a sign of life after which a process counts as
        stopped.
    """
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
