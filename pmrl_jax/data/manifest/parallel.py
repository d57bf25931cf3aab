"""Tasks in processes of their own, few at a time."""

from __future__ import annotations

import concurrent.futures
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

_Shared = TypeVar("_Shared")
_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


def run_tasks(
  function: Callable[[_Shared, _Task], _Result],
  shared: _Shared,
  tasks: Iterable[_Task],
  *,
  workers: int | None,
) -> Generator[_Result]:
  """Yields `function(shared, task)` for all tasks, as they are finished.

  Args:
    function: a function of a module, so that it can be sent.
    shared: what every task needs; sent once to every process.
    tasks: taken as processes become free, never far ahead.
    workers: how many processes; 1 does it in this one, None takes as many as
      there are cores.

  Raises:
    ValueError: if `workers` is less than 1.
    RuntimeError: if a process dies.
  """
  if workers is None:
    workers = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count()
  if workers is None or workers < 1:
    raise ValueError(f"workers must be at least 1, got {workers}")
  if workers == 1:
    return (function(shared, task) for task in tasks)
  return _run(function, shared, iter(tasks), workers)


_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on macOS


def _run(
  function: Callable[[_Shared, _Task], _Result],
  shared: _Shared,
  tasks: Iterator[_Task],
  workers: int,
) -> Generator[_Result]:
  context = multiprocessing.get_context("spawn")
  # A fork would copy the locks of other threads, JAX's among them.
  reader, writer = context.Pipe(duplex=False)
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    mp_context=context,
    initializer=_prepare_process,
    initargs=(function, shared, reader),
  )
  running: set[concurrent.futures.Future[_Result]] = set()
  try:
    while True:
      for task in itertools.islice(tasks, 2 * workers - len(running)):
        running.add(pool.submit(_call, task))
      if not running:
        break
      done, running = concurrent.futures.wait(
        running, return_when=concurrent.futures.FIRST_COMPLETED
      )
      for future in done:
        yield future.result()
    pool.shutdown(wait=True)
  except concurrent.futures.BrokenExecutor as error:
    raise RuntimeError(
      "a worker process died: a decoder crashed on a file, or memory ran out; "
      "with one worker it is seen where, with fewer of them less memory is "
      "needed"
    ) from error
  finally:
    writer.close()  # whoever is still at work ends now
    pool.shutdown(wait=True, cancel_futures=True)
    reader.close()


_function: Callable[[Any, Any], Any]  # of this process, see `_prepare_process`
_shared: Any


def _prepare_process(
  function: Callable[[Any, Any], Any],
  shared: Any,
  alive: multiprocessing.connection.Connection,
) -> None:
  """Sets up a process that works for another one, and ends with it."""
  global _function, _shared
  _function, _shared = function, shared
  # Ctrl-C goes to all processes; the parent tells the others what to do.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  threading.Thread(target=_end_with, args=(alive,), daemon=True).start()


def _end_with(alive: multiprocessing.connection.Connection) -> None:
  """Ends the process once the other end of the pipe is closed, or dead."""
  multiprocessing.connection.wait([alive])
  os._exit(1)


def _call(task: Any) -> Any:
  return _function(_shared, task)
