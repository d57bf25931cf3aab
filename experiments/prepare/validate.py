"""Looks through a manifest and all files that it names.

  python -m experiments.prepare validate train.jsonl
  python -m experiments.prepare validate train.jsonl --deep --report=report.json

Checks ids, types and paths of every row, and the headers of every file; with
--deep it decodes all of them. Prints what is present per modality, how long and
how large it is, and what is broken with the reason. The exit code is 1 if
anything is.
"""

import sys
from pathlib import Path

from absl import flags

from experiments import workdir
from experiments.prepare import options
from pmrl_jax.data import manifest

ARGUMENT = "MANIFEST"

_NO_FILE = "there is no such file"  # how the reason of a problem ends

_DEEP = flags.DEFINE_bool("deep", False, "Decode every file to its end.")
_REPORT = flags.DEFINE_string(
  "report", None, "A file for the report as JSON, with up to 1000 problems."
)
_SHOWN = flags.DEFINE_integer(
  "shown", 20, "How many problems to print.", lower_bound=0
)
for _flag in ("kinds", "root", "workers"):
  flags.declare_key_flag(_flag)


def run(path: str) -> None:
  """Validates a manifest from the flags."""
  with options.progress("row") as tell:
    report = manifest.validate(
      path,
      kinds=options.kinds(),
      root=options.ROOT.value,
      deep=_DEEP.value,
      workers=options.WORKERS.value,
      progress=tell,
    )
  print(report.as_text(num_shown=_SHOWN.value))
  if _REPORT.value:
    workdir.write_atomically(Path(_REPORT.value), report.as_json())
    print(f"report: {_REPORT.value}")
  if not report.is_sound:
    missing = [p for p in report.problems if p.reason.endswith(_NO_FILE)]
    if len(missing) == len(report.problems) and not options.ROOT.value:
      print("if they are all elsewhere, give the folder of the paths as --root")
    sys.exit(1)
