"""Metrics on disk: `metrics.jsonl` and TensorBoard events.

TensorBoard files are written by tensorboardX, which needs no TensorFlow.
"""

import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorboardX

_FILE = "metrics.jsonl"


def read_metrics(folder: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the rows of a run's `metrics.jsonl`, in order.

  Args:
    folder: The folder that the file is in.

  Returns:
    One dictionary a line. A last line that was cut off by a kill is left out.

  Raises:
    FileNotFoundError: If there is no such file.
    ValueError: If a line other than the last is not JSON.
  """
  path = Path(folder) / _FILE
  lines = path.read_text().splitlines()
  rows = []
  for number, line in enumerate(lines, 1):
    try:
      rows.append(json.loads(line))
    except json.JSONDecodeError as error:
      if number < len(lines):
        raise ValueError(
          f"{path}, line {number} is not JSON: {error}"
        ) from None
  return rows


class MetricsWriter:
  """Writes rows of metrics, and picks up where a killed run stopped."""

  def __init__(self, folder: str | os.PathLike, *, step: int = 0):
    """Opens the files.

    Args:
      folder: Where `metrics.jsonl` and `tensorboard/` go; made if absent.
      step: The step from which the run goes on. Rows of later steps, written
        by a run that was killed before its next checkpoint, are dropped: they
        will be written again. At 0 the run starts over, so all are.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    self._began = time.perf_counter()
    if path.exists():
      rows = read_metrics(folder)
      kept = [row for row in rows if 0 < step >= row["step"]]
      partial = path.with_suffix(".partial")
      partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
      partial.replace(path)  # atomic: a kill leaves the old file or the new
      if kept:
        self._began -= kept[-1]["seconds"]
    self._file = path.open("a", buffering=1)
    self._events = tensorboardX.SummaryWriter(
      str(folder / "tensorboard"), purge_step=step + 1 if step else 0
    )

  def write(self, kind: str, step: int, metrics: Mapping[str, Any]) -> None:
    """Adds a row, stamped with the seconds that the run has taken so far.

    Args:
      kind: What the row is about, `train` or `eval`.
      step: Steps taken so far.
      metrics: Scalars, and lists of scalars. A value that is not finite is
        written as null, since JSON has no NaN.
    """
    seconds = round(time.perf_counter() - self._began, 3)
    row: dict[str, Any] = {"kind": kind, "step": step, "seconds": seconds}
    for name, value in metrics.items():
      row[name] = _plain(value)
      for tag, scalar in _scalars(kind, {name: row[name]}):
        self._events.add_scalar(tag, scalar, step)
    self._file.write(json.dumps(row) + "\n")

  def close(self) -> None:
    """Flushes and closes both files."""
    self._file.close()
    self._events.close()


def _plain(value: Any) -> Any:
  """A value as JSON knows it."""
  if isinstance(value, Mapping):
    return {name: _plain(item) for name, item in value.items()}
  if hasattr(value, "tolist"):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _scalars(tag: str, value: Any) -> Iterator[tuple[str, float]]:
  """The scalars in a value, each with its TensorBoard tag."""
  if isinstance(value, dict):
    for name, item in value.items():
      # TensorBoard takes letters, digits and - _ . / in a tag.
      name = re.sub(r"[^\w./-]+", "_", name.replace("->", "_to_"))
      yield from _scalars(f"{tag}/{name}", item)
  elif isinstance(value, list):
    for index, item in enumerate(value, 1):
      yield from _scalars(f"{tag}_{index}", item)
  elif isinstance(value, int | float):
    yield tag, value
