"""Prepares data: looks through manifests, and builds data sets of them.

  python -m experiments.prepare validate MANIFEST  what is there and what broken
  python -m experiments.prepare build MANIFEST     a TFDS data set, fast to read
  python -m experiments.prepare verify FOLDER      is such a data set undamaged
  python -m experiments.prepare manifest NAME      that of a known benchmark
  python -m experiments.prepare dataset NAME       that data set itself

A manifest is a table, parquet, JSON lines or CSV, with a column `id` and one
for each modality: paths of media files, texts or numbers (docs/data.md).
`python -m experiments.prepare build --help` lists the flags of that verb.

Exit codes: 0 all is well; 1 something that was checked is broken; 2 a mistake
in the flags or the data (one message); 130 interrupted.
"""

import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags

from experiments import cli
from experiments.prepare import build, dataset, manifest, validate, verify

# Each has flags of its own, `ARGUMENT` and `run(argument)`.
VERBS: dict[str, ModuleType] = {
  "validate": validate,
  "build": build,
  "verify": verify,
  "manifest": manifest,
  "dataset": dataset,
}


def start() -> None:
  """Runs the program from the command line."""
  if any(argument in cli.HELP for argument in sys.argv[1:]):
    print(usage(sys.argv[1:]))
    return
  cli.run(main, takes_arguments=True)


def usage(arguments: Sequence[str]) -> str:
  """Returns the help on the verb among the arguments, or on all verbs."""
  verbs = [argument for argument in arguments if argument in VERBS]
  if not verbs:
    return (__doc__ or "").strip()
  module = VERBS[verbs[0]]
  # The first line names the module, as if it were a program.
  _, _, listed = flags.FLAGS.module_help(module).strip().partition("\n")
  text = (module.__doc__ or "").strip()
  return f"{text}\n\nFlags:\n{listed}" if listed else text


def main(arguments: Sequence[str]) -> None:
  """Does what a verb says.

  Args:
    arguments: The verb and what it is about.

  Raises:
    ValueError: If they are not as expected, or a flag is another verb's.
  """
  if not arguments or arguments[0] not in VERBS:
    got = repr(arguments[0]) if arguments else "nothing"
    raise ValueError(
      f"expected one of {', '.join(VERBS)} first, got {got}; --help tells "
      "what they do"
    )
  verb, *rest = arguments
  module = VERBS[verb]
  if len(rest) != 1:
    raise ValueError(
      f"expected one {module.ARGUMENT} after {verb}, got {rest or 'nothing'}"
    )
  own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(module)}
  for other in VERBS.values():
    for flag in flags.FLAGS.get_key_flags_for_module(other):
      if flag.present and flag.name not in own:
        raise ValueError(
          f"--{flag.name} is no flag of {verb}; `{verb} --help` lists them"
        )
  try:
    module.run(rest[0])
  except ImportError as error:  # an extra that is not installed
    raise ValueError(str(error)) from error
