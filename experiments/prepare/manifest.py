r"""Writes the manifest of a retrieval benchmark, from its annotation file.

  python -m experiments.prepare manifest msrvtt --split=test \
    --annotations=msrvtt/annotations --media=msrvtt/videos \
    --output=msrvtt/test.parquet

Names: msrvtt, didemo, activitynet, vatex, audiocaps, clotho, vast; each has a
page in docs/datasets. All captions are kept, and every row of the annotation
file: media that are missing are empty cells, and counted.
"""

from pathlib import Path
from typing import Any

from absl import flags

from experiments.prepare import options
from pmrl_jax.data.datasets.benchmarks import (
  BenchmarkManifest,
  benchmark_manifest,
)
from pmrl_jax.data.manifest import below, write_table

ARGUMENT = "NAME"

_SPLIT = flags.DEFINE_string("split", "test", "The split, as train or test.")
_ANNOTATIONS = flags.DEFINE_string(
  "annotations", None, "The annotation file, or its folder."
)
_MEDIA = flags.DEFINE_string(
  "media", None, "The folder of the videos; for clotho of the recordings."
)
_AUDIO = flags.DEFINE_string(
  "audio",
  None,
  "The folder of the sound files. Default: files beside the videos, or else "
  "the videos' own sound.",
)
flags.declare_key_flag("output")


def run(name: str) -> None:
  r"""Writes the manifest of a benchmark from the flags."""
  for flag, value in (
    ("annotations", _ANNOTATIONS.value),
    ("output", options.OUTPUT.value),
  ):
    if not value:
      raise ValueError(f"expected --{flag}; `manifest --help` lists the flags")
  found = benchmark_manifest(
    name,
    _SPLIT.value,
    annotations=_ANNOTATIONS.value,
    media=_MEDIA.value,
    audio=_AUDIO.value,
  )
  output = Path(options.OUTPUT.value)
  table, root = _placed(found, output.absolute().parent.resolve())
  write_table(table, output)
  for note in found.notes:
    print(f"note: {note}")
  expected = "" if found.expected is None else f" of {found.expected:,}"
  print(f"{output}: {table.num_rows:,}{expected} rows")
  for modality in found.kinds:
    column = table.column(modality)
    print(f"  {modality}: {len(column) - column.null_count:,} present")
  root_flag = "" if root is None else f" --root={root}"
  print(f"next: python -m experiments.prepare validate {output}{root_flag}")


def _placed(found: BenchmarkManifest, folder: Path) -> tuple[Any, Path | None]:
  """Makes paths relative to the manifest's folder, if it is above the media.

  Returns:
    The table, and the root that has to be given for it, if any.
  """
  root = found.root.resolve()
  files = [name for name, kind in found.kinds.items() if kind != "text"]
  if root == folder or not files:
    return found.table, None
  if not root.is_relative_to(folder):
    return found.table, root
  return below(found.table, root.relative_to(folder), files), None
