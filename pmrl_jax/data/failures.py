"""Examples that cannot be read: counted, listed, and never replaced."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable
from typing import NamedTuple


class Failure(NamedTuple):
  """One modality of one example that could not be read."""

  name: str  # the example's id in its data set
  modality: str
  reason: str  # a sentence, with the path where there is one


class TooManyFailuresError(ValueError):
  """More examples than allowed could not be read."""


class FailureLog:
  """Writes failures to a file, each once, and stops when there are too many.

  A line of the file is a JSON object with the fields of `Failure`. What an
  earlier session has written counts as well.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    *,
    num_examples: int,
    max_share: float,
  ):
    """Opens the log; there is no file before there is a failure.

    Args:
      path: the file, `.jsonl`.
      num_examples: how many examples the data set has.
      max_share: the share of them, 0 to 1, that may fail.

    Raises:
      ValueError: if the share is out of range, or the file is another one.
    """
    if not 0 <= max_share <= 1:
      raise ValueError(
        f"expected a share of bad examples from 0 to 1, got {max_share}"
      )
    self._path = pathlib.Path(path)
    self._num_examples = num_examples
    self._max_share = max_share
    self._known = set(_read(self._path))

  @property
  def num_bad(self) -> int:
    """The number of different examples that have failed so far."""
    return len({failure.name for failure in self._known})

  def add(self, failures: Iterable[Failure]) -> None:
    """Takes note of failures.

    Args:
      failures: those of one batch; known ones are not written again.

    Raises:
      TooManyFailuresError: if more examples than allowed have failed.
    """
    fresh = [
      failure
      for failure in dict.fromkeys(failures)
      if (failure.name, failure.modality)
      not in {known[:2] for known in self._known}
    ]
    if not fresh:
      return
    with self._path.open("a", encoding="utf-8") as file:
      for failure in fresh:
        file.write(json.dumps(failure._asdict(), ensure_ascii=False) + "\n")
    self._known.update(fresh)
    if self.num_bad > self._max_share * self._num_examples:
      shown = "\n".join(
        f"  {name}, {modality}: {reason}"
        for name, modality, reason in sorted(self._known)[:5]
      )
      raise TooManyFailuresError(
        f"{self.num_bad} of {self._num_examples} examples cannot be read, more "
        f"than the allowed share of {self._max_share:g}; all are listed in "
        f"{self._path}, the first ones are\n{shown}\nRepair them, take them "
        "out of the data set, or allow a larger share"
      )


def _read(path: pathlib.Path) -> list[Failure]:
  if not path.exists():
    return []
  lines = path.read_text(encoding="utf-8").splitlines()
  try:
    return [Failure(**json.loads(line)) for line in lines]
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"{path} is no list of bad examples ({error}); move it away"
    ) from None
