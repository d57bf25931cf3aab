"""Flags that several verbs have in common, and bars of progress."""

import contextlib
import sys
from collections.abc import Callable, Iterator

import tqdm
from absl import flags

KINDS = flags.DEFINE_list(
  "kinds",
  [],
  "What columns hold, as --kinds=clip:video,notes:none; none: it is not read. "
  "Others are inferred from their first values.",
)
ROOT = flags.DEFINE_string(
  "root", None, "The folder of the paths. Default: that of the manifest."
)
WORKERS = flags.DEFINE_integer(
  "workers", None, "Processes. Default: as many as cores.", lower_bound=1
)
OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Where to write: the folder of a data set, new or begun by the same command; "
  "the file of a manifest, .parquet, .jsonl or .csv.",
  # Other programs have a flag of this name, too.
  allow_override=True,
)


def kinds() -> dict[str, str | None]:
  """The kinds of --kinds.

  Raises:
    ValueError: If it is written in another way.
  """
  found: dict[str, str | None] = {}
  for item in KINDS.value:
    column, colon, kind = item.rpartition(":")
    if not colon:
      raise ValueError(f"expected column:kind in --kinds, got {item!r}")
    found[column] = None if kind == "none" else kind
  return found


@contextlib.contextmanager
def progress(unit: str) -> Iterator[Callable[[int, int], None]]:
  """A bar that is told `(done, total)`; on a terminal only.

  Args:
    unit: What is counted; "B" for bytes.
  """
  with tqdm.tqdm(
    total=0,
    unit=unit,
    unit_scale=unit == "B",
    dynamic_ncols=True,
    leave=False,
    disable=not sys.stderr.isatty(),
  ) as bar:

    def tell(done: int, total: int) -> None:
      bar.total = total
      bar.update(done - bar.n)

    yield tell
