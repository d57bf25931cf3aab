r"""Builds a TFDS data set of a manifest: sharded, decoded once, fast to read.

  python -m experiments.prepare build train.jsonl --output=prepared/train
  python -m experiments.prepare build train.jsonl --output=prepared/train \
    --frames_per_second=2 --shorter_side=224 --sample_rate=16000
  python -m experiments.prepare build train.jsonl --output=prepared/train \
    --beam="--runner=DirectRunner --direct_num_workers=8"

Frames of videos are stored as JPEG, sounds as FLAC, images as they are unless
they are too large, arrays as float32. Stopped or killed, the same command goes
on where it was; the number of workers does not change a byte. What cannot be
read is absent from its row and listed in bad_examples.jsonl, no row is left out
or replaced; more broken rows than --max_bad stop the build with that list.
"""

import shlex
import signal
from pathlib import Path

from absl import flags

from experiments.prepare import options
from pmrl_jax import training
from pmrl_jax.data import manifest

ARGUMENT = "MANIFEST"

_DEFAULT = manifest.Encoding()

_NAME = flags.DEFINE_string(
  "name", None, "Of the data set. Default: that of the manifest."
)
_NUM_SHARDS = flags.DEFINE_integer(
  "num_shards",
  None,
  "Files per split. Default: one for 256 rows, 1024 at most.",
  lower_bound=1,
)
_MAX_BAD = flags.DEFINE_float(
  "max_bad", 0.01, "The share of rows that may be broken.", 0.0, 1.0
)
_NUM_FRAMES = flags.DEFINE_integer(
  "num_frames",
  None,
  "Frames of each video, spread over it. Default, without "
  f"--frames_per_second: {_DEFAULT.num_frames}.",
  lower_bound=1,
)
_FRAMES_PER_SECOND = flags.DEFINE_float(
  "frames_per_second", None, "Instead: frames of every second of a video."
)
_SHORTER_SIDE = flags.DEFINE_integer(
  "shorter_side",
  _DEFAULT.shorter_side,
  "The most that the shorter side of frames and images has, in pixels; 0 keeps "
  "their size.",
  lower_bound=0,
)
_JPEG_QUALITY = flags.DEFINE_integer(
  "jpeg_quality", _DEFAULT.jpeg_quality, "Of frames, 1 to 95.", 1, 95
)
_SAMPLE_RATE = flags.DEFINE_integer(
  "sample_rate", None, "Of sounds, in Hz. Default: their own.", lower_bound=1
)
_MONO = flags.DEFINE_bool(
  "mono", _DEFAULT.mono, "Mix the channels of sounds to one."
)
_BEAM = flags.DEFINE_string(
  "beam",
  None,
  "Build with Apache Beam, given its own flags in quotes (may be empty).",
)
for _flag in ("kinds", "output", "root", "workers"):
  flags.declare_key_flag(_flag)


def run(path: str) -> None:
  """Builds a data set from the flags."""
  if not options.OUTPUT.value:
    raise ValueError("expected the folder to write to, as --output=prepared/x")
  encoding = _encoding()
  table = manifest.read_manifest(
    path, kinds=options.kinds(), root=options.ROOT.value
  )
  try:
    built = _build(table, Path(options.OUTPUT.value), encoding)
  except KeyboardInterrupt:
    raise _Stopped(
      f"interrupted: what is finished is kept in {options.OUTPUT.value}"
    ) from None
  for split, count in built.num_examples.items():
    print(f"{split}: {count:,} examples")
  print(f"{built.folder}: {built.num_bytes / 1e6:,.1f} MB")
  if built.num_bad:
    print(
      f"{built.num_bad:,} of them lack what cannot be read: "
      f"{built.folder / 'bad_examples.jsonl'}"
    )


class _Stopped(training.Interrupted):
  """The user stopped the build; what is finished is kept."""

  def __init__(self, kept: str):
    """Says what is kept."""
    Exception.__init__(self, kept)
    self.signal_number = signal.SIGINT


def _encoding() -> manifest.Encoding:
  rate, num_frames = _FRAMES_PER_SECOND.value, _NUM_FRAMES.value
  if rate is None and num_frames is None:
    num_frames = _DEFAULT.num_frames
  return manifest.Encoding(
    num_frames=num_frames,
    frames_per_second=rate,
    shorter_side=_SHORTER_SIDE.value or None,
    jpeg_quality=_JPEG_QUALITY.value,
    sample_rate=_SAMPLE_RATE.value,
    mono=_MONO.value,
  )


def _build(
  table: manifest.Manifest, output: Path, encoding: manifest.Encoding
) -> manifest.Built:
  if _BEAM.value is not None:
    return manifest.build_with_beam(
      table,
      output,
      encoding=encoding,
      name=_NAME.value,
      num_shards=_NUM_SHARDS.value,
      max_bad=_MAX_BAD.value,
      pipeline_options=shlex.split(_BEAM.value),
    )
  with options.progress("row") as tell:
    return manifest.build(
      table,
      output,
      encoding=encoding,
      name=_NAME.value,
      num_shards=_NUM_SHARDS.value,
      workers=options.WORKERS.value,
      max_bad=_MAX_BAD.value,
      progress=tell,
    )
