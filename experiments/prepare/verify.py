"""Compares the files of a data set that was built with their checksums.

  python -m experiments.prepare verify prepared/train

The exit code is 1 if a file is missing, damaged or not part of the set.
"""

import sys

from experiments.prepare import options
from pmrl_jax.data import manifest

ARGUMENT = "FOLDER"


def run(folder: str) -> None:
  """Verifies a folder."""
  with options.progress("B") as tell:
    problems = manifest.verify(folder, progress=tell)
  for problem in problems:
    print(f"{folder}: {problem}")
  if problems:
    sys.exit(1)
  print(f"{folder}: all files are as they were built")
