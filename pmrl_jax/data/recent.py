"""A cache that travels to worker processes empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Recent:
  """The last few results of a function, as of the epochs in use.

  `functools.lru_cache` cannot be pickled with the method that it wraps. Threads
  may compute the same result twice, and both are right.
  """

  def __init__(self, function: Callable[..., Any], size: int):
    """Wraps a function of hashable arguments; the `size` last are kept."""
    self._function = function
    self._size = size
    self._results: dict[tuple, Any] = {}

  def __call__(self, *arguments: Any) -> Any:
    """Returns the result, from before if it is still there."""
    try:
      return self._results[arguments]
    except KeyError:
      result = self._function(*arguments)
    # Replaced as a whole: another thread may be reading.
    kept = [*self._results.items(), (arguments, result)]
    self._results = dict(kept[-self._size :])
    return result

  def __getstate__(self) -> dict[str, Any]:
    """Leaves the results behind."""
    return self.__dict__ | {"_results": {}}
