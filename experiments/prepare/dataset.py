r"""Prepares a known data set by its TFDS builder, all splits at once.

  python -m experiments.prepare dataset retrieval/msrvtt --raw=msrvtt \
    --output=prepared
  python -m experiments.prepare dataset abide/fold_0 --raw=abide \
    --output=prepared

Names: retrieval/msrvtt, …/didemo, …/activitynet, …/vatex, …/audiocaps,
…/clotho, …/vast, abide/fold_0 to fold_9, abide/site_NYU and other sites, mfeat,
multimodal_digits. --raw is your own copy, laid out as the data set's page in
docs/datasets has it. No row is left out: what is missing or cannot be read is
absent, and counted. The same as `tfds build`, but without TensorFlow.
"""

from pathlib import Path

from absl import flags

from experiments.prepare import options
from pmrl_jax.data.datasets import builders

ARGUMENT = "NAME"

_RAW = flags.DEFINE_string("raw", None, "The folder of your own copy.")
flags.declare_key_flag("output")


def run(name: str) -> None:
  """Prepares a data set from the flags."""
  for flag, value in (("raw", _RAW.value), ("output", options.OUTPUT.value)):
    if not value:
      raise ValueError(f"expected --{flag}; `dataset --help` lists the flags")
  for folder in builders.prepare(
    name, raw_dir=_RAW.value, data_dir=options.OUTPUT.value
  ):
    _report(folder)


def _report(folder: Path) -> None:
  """Prints what a folder holds, and what is missing."""
  found = builders.summarise(folder)
  print(f"{folder}:")
  for split, notes in found.notes.items():
    for note in notes:
      print(f"  note: {split}: {note}")
  for split, num_examples in found.num_examples.items():
    print(f"  {split}: {num_examples:,} rows")
    for modality, count in found.present.get(split, {}).items():
      if count:
        print(f"    {modality}: {count:,} present")
  if found.num_bad:
    print(
      f"  {found.num_bad:,} rows lack what cannot be read: "
      f"{folder / 'bad_examples.jsonl'}"
    )
