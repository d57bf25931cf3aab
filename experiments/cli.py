"""What the programs share on the command line: parsing, errors, exit codes.

Exit codes: 0 done; 1 a bug or a broken machine (with a traceback), and of
`prepare` that something is broken in what was to be checked; 2 a mistake in
the flags, the config, the data or the workdir (one message);
3 the loss or its gradient stopped being finite; 130 and 143 stopped by
SIGINT or SIGTERM after saving, so the same command goes on from there. Of
several processes all end with the code of the first that stopped; a process
that JAX aborts, since the coordinator is gone, ends with 134.
"""

import argparse
import difflib
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_collections
from absl import app, flags, logging

from experiments import cluster
from pmrl_jax.training import CheckpointError, Interrupted, NonFiniteError

MISTAKE = 2
NON_FINITE = 3

# Here, not in each program: a flag has one definition in a process.
WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "The run's folder. Default of train: runs/<name of the config file>.",
)
# What asks for the help of a program that prints its own.
HELP = ("--help", "-h", "--helpshort", "-help")

_DEBUG = flags.DEFINE_bool(
  "debug", False, "Show the traceback of a mistake as well."
)


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> None:
  """Parses the flags, runs a program and exits with a documented code.

  Args:
    main: The program.
    takes_arguments: Whether it is called with the list of arguments that are
      no flags, which may then stand before flags, too. By default there must
      be none.
  """
  # Or else all that comes after the first argument would be arguments.
  flags.FLAGS.set_gnu_getopt(takes_arguments)

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1 and not takes_arguments:
      _fail(f"unexpected arguments {argv[1:]}; every option starts with --")
    # Orbax warns of what is meant; damage is told in the notes of the run.
    logging.set_verbosity(logging.ERROR)
    try:
      main(*([argv[1:]] if takes_arguments else []))
      cluster.leave()
    except Interrupted as error:
      cluster.leave()
      if cluster.is_primary():
        print(f"{error}. The same command goes on from there.", file=sys.stderr)
      sys.exit(128 + error.signal_number)
    except KeyboardInterrupt:  # while nothing was to be saved
      _fail("interrupted", code=128 + signal.SIGINT)
    except NonFiniteError as error:
      _fail(str(error), code=NON_FINITE)
    except (ValueError, TypeError, OSError, CheckpointError) as error:
      if _DEBUG.value and cluster.is_alone():
        raise
      if _DEBUG.value:
        traceback.print_exception(error)
      _fail(str(error))
    except Exception as error:
      if cluster.is_alone():
        raise
      _fail_together(error)

  app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
  """Parses flags; a mistake in them gets a message that helps."""
  path = _config_path(argv)
  try:
    if path is not None and not Path(path).is_file():
      raise FileNotFoundError(_no_config_file(path))
    return flags.FLAGS(argv)
  except flags.Error as error:
    message = f"{error}; {_expected(str(error), path)}"
  except (AttributeError, KeyError) as error:
    if "'get_config'" in str(error):
      _fail(f"the config file {path} has no function get_config()")
    # An override of what is not there; or a bug in the file, and then loading
    # it alone shows it again.
    message = _unknown_key(argv, path)
  except (FileNotFoundError, SyntaxError, ImportError) as error:
    message = f"the config file cannot be loaded: {error}"
  _fail(message)


def _config_path(argv: list[str]) -> str | None:
  """The value of --config, before any flag is parsed."""
  parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  parser.add_argument("--config", nargs="?")
  return parser.parse_known_args(argv[1:])[0].config


def _no_config_file(path: str) -> str:
  known = sorted(
    p.name for p in (Path(__file__).parent / "configs").glob("[a-z]*.py")
  )
  return (
    f"{path} does not exist; the configs that come with the project are, in "
    f"experiments/configs/: {', '.join(known)}"
  )


def _without_overrides(path: str | None) -> dict[str, Any]:
  """The entries of a config by their dotted names, as in its file."""
  return dict(leaves(flags.FLAGS["config"].parser.parse(path)))


def _expected(error: str, path: str | None) -> str:
  """What a flag that got the wrong type should have got."""
  key = re.match(r"flag --config\.([^=]+)=", error)
  if not key:
    return "--help lists the flags"
  entries = _without_overrides(path)
  if key[1] not in entries:
    return "override the entries of a section one by one"
  value = entries[key[1]]
  return f"expected {type(value).__name__}, as the {value!r} in {path}"


def _unknown_key(argv: list[str], path: str | None) -> str:
  """Names the overrides whose keys the config does not have."""
  known = list(_without_overrides(path))
  overrides = [a.lstrip("-") for a in argv[1:] if a.startswith("--config.")]
  keys = [o.split("=")[0].removeprefix("config.") for o in overrides]
  unknown = [key for key in keys if key not in known]
  lines = []
  for key in unknown:
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    advice = (
      f"did you mean {' or '.join(close)}?"
      if close
      else f"its keys are: {', '.join(known)}"
    )
    lines.append(f"the config {path} has no key {key}; {advice}")
  return "\n".join(lines)


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
  print(f"{cluster.prefix()}{message}", file=sys.stderr)
  cluster.stop(message, code)


def _fail_together(error: Exception) -> NoReturn:
  """Ends one of several processes after a bug, or a machine that broke."""
  if isinstance(error, jax.errors.JaxRuntimeError):
    # Most likely what this process does together with one that has stopped.
    cluster.await_verdict()
  traceback.print_exception(error)
  _fail(f"{type(error).__name__}: {error}", code=1)
