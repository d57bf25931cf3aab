"""Flags of several programs: a flag has one definition in a process."""

from absl import flags

BATCH = flags.DEFINE_list(
  "batch", None, "Batch sizes, separated by commas. Default: see the program."
)
MODALITIES = flags.DEFINE_list(
  "modalities", None, "Numbers of modalities. Default: see the program."
)
DIM = flags.DEFINE_integer("dim", 512, "Dimension of the embeddings.")
DTYPE = flags.DEFINE_enum(
  "dtype", "float32", ["float32", "bfloat16"], "Type of the embeddings."
)
BLOCK_SIZE = flags.DEFINE_integer(
  "block_size", 256, "Keys per block of the blocked form of the loss."
)
ROUNDS = flags.DEFINE_integer(
  "rounds", None, "Calls of each that is fast. Default: see the program."
)
MARKDOWN = flags.DEFINE_string(
  "markdown",
  None,
  "A file for the tables in Markdown: in place of what stands between their "
  "markers if it has them, a new file if there is none.",
)
# The program `evaluate` has a flag of this name, too, and one process may
# load both. For the same reason the default is not given here.
OUTPUT = flags.DEFINE_string(
  "output",
  None,
  "Where the results go, as JSON. Default: runs/benchmarks/<program>.json.",
  allow_override=True,
)


def numbers(
  flag: flags.FlagHolder, default: tuple[int, ...], *, minimum: int
) -> tuple[int, ...]:
  """The integers of a list flag, ascending.

  Args:
    flag: The flag.
    default: What it stands for if it is not given.
    minimum: The least that makes sense.

  Raises:
    ValueError: If an entry is no integer or too small.
  """
  if flag.value is None:
    return default
  try:
    values = tuple(sorted({int(entry) for entry in flag.value}))
  except ValueError:
    values = ()
  if not values or values[0] < minimum:
    raise ValueError(
      f"--{flag.name} must be integers of at least {minimum} separated by "
      f"commas, got {','.join(flag.value)!r}; for example "
      f"--{flag.name}={','.join(map(str, default))}"
    )
  return values


def check_positive(*holders: flags.FlagHolder) -> None:
  """Checks that flags of single numbers are positive, if they are given.

  Raises:
    ValueError: If one is not.
  """
  for flag in holders:
    if flag.value is not None and not flag.value > 0:
      raise ValueError(f"--{flag.name} must be positive, got {flag.value}")
