"""What the programs share on the command line: parsing, errors, exit codes.

Exit codes: 0 done; 1 a bug or a broken machine (with a traceback); 2 a
mistake in the flags, the config, the data or the workdir (one message);
3 the loss or its gradient stopped being finite; 130 and 143 stopped by
SIGINT or SIGTERM after saving, so the same command goes on from there.
"""

import difflib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from pmrl_jax.training import CheckpointError, Interrupted, NonFiniteError

MISTAKE = 2
NON_FINITE = 3

# Here, not in each program: a flag has one definition in a process.
WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "The run's folder. Default of train: runs/<name of the config file>.",
)
_DEBUG = flags.DEFINE_bool(
  "debug", False, "Show the traceback of a mistake as well."
)


def run(main: Callable[[], None]) -> None:
  """Parses the flags, runs a program and exits with a documented code."""

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1:
      _fail(f"unexpected arguments {argv[1:]}; every option starts with --")
    # Orbax warns of what is meant; damage is told in the notes of the run.
    logging.set_verbosity(logging.ERROR)
    try:
      main()
    except Interrupted as error:
      print(f"{error}. The same command goes on from there.", file=sys.stderr)
      sys.exit(128 + error.signal_number)
    except NonFiniteError as error:
      _fail(str(error), code=NON_FINITE)
    except (ValueError, TypeError, OSError, CheckpointError) as error:
      if _DEBUG.value:
        raise
      _fail(str(error))

  app.run(guarded, flags_parser=_parse)


def config_of(flag: flags.FlagHolder) -> ml_collections.ConfigDict:
  """The config that a config-file flag holds, with the overrides applied.

  Args:
    flag: From `config_flags.DEFINE_config_file`.

  Raises:
    FileNotFoundError: If there is no such file.
  """
  path = config_flags.get_config_filename(flags.FLAGS[flag.name])
  if not Path(path).is_file():
    known = sorted(
      p.name for p in (Path(__file__).parent / "configs").glob("[a-z]*.py")
    )
    raise FileNotFoundError(
      f"the config file {path} does not exist; the configs that come with the "
      f"project are, in experiments/configs/: {', '.join(known)}"
    )
  return flag.value


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; an unknown config key gets a message that helps."""
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    message = f"{error}; --help lists the flags"
  except AttributeError:
    message = _unknown_key(argv)
  except (FileNotFoundError, SyntaxError, ImportError) as error:
    message = f"the config file cannot be loaded: {error}"
  _fail(message)


def _unknown_key(argv: list[str]) -> str:
  """Names the override whose key the config does not have."""
  config = flags.FLAGS["config"].value
  known = [key for key, _ in leaves(config)]
  overrides = [a.lstrip("-") for a in argv[1:] if a.startswith("--config.")]
  keys = [o.split("=")[0].removeprefix("config.") for o in overrides]
  unknown = [key for key in keys if key not in known]
  message = f"the config has no key {', '.join(unknown)}"
  for key in unknown:
    if close := difflib.get_close_matches(key, known, n=3, cutoff=0.5):
      message += f"; did you mean {' or '.join(close)}?"
  return f"{message}\nIts keys are: {', '.join(known)}"


def leaves(
  config: ml_collections.ConfigDict, prefix: str = ""
) -> Iterator[tuple[str, Any]]:
  """Yields the dotted name and the value of every entry of a config."""
  for name, value in config.items():
    if isinstance(value, ml_collections.ConfigDict):
      yield from leaves(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _fail(message: str, code: int = MISTAKE) -> NoReturn:
  print(f"error: {message}", file=sys.stderr)
  sys.exit(code)
