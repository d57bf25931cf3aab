"""TFDS builders: they turn public raw files into prepared records.

They run once and are not used in training, which reads the prepared records:

    from pmrl_jax.data.datasets import builders
    builders.prepare("multimodal_digits", raw_dir="raw", data_dir="prepared")
    builders.prepare("retrieval/msrvtt", raw_dir="msrvtt", data_dir="prepared")

With this module imported `tfds.builder` knows them, too. The builder's
`MANUAL_DOWNLOAD_INSTRUCTIONS` say which files `raw_dir` holds.
"""

from __future__ import annotations

import os
import pathlib
import sys
import tempfile

import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.builders.abide import Abide
from pmrl_jax.data.datasets.builders.mfeat import Mfeat
from pmrl_jax.data.datasets.builders.multimodal_digits import MultimodalDigits
from pmrl_jax.data.datasets.builders.retrieval import Retrieval
from pmrl_jax.data.datasets.builders.summary import Summary, summarise

__all__ = [
  "BUILDERS",
  "Abide",
  "Mfeat",
  "MultimodalDigits",
  "Retrieval",
  "Summary",
  "prepare",
  "summarise",
]

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
  "abide": Abide,
  "mfeat": Mfeat,
  "multimodal_digits": MultimodalDigits,
  "retrieval": Retrieval,
}

# Their configs come from different files, or are splits of the same ones.
_ONE_CONFIG = ("abide", "retrieval")


def prepare(
  name: str,
  *,
  raw_dir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
) -> list[pathlib.Path]:
  """Prepares a data set as ArrayRecord: one of its configs, or all.

  What is already prepared under `data_dir` is left as it is.

  Args:
    name: a key of `BUILDERS`, or one and the name of a config, as
      "abide/fold_0" or "retrieval/msrvtt", whose configs need it.
    raw_dir: the folder of the public raw files.
    data_dir: the folder to write `<name>/<config>/<version>` into.

  Returns:
    The prepared folders.

  Raises:
    ValueError: if there is no such data set, or a raw file is malformed.
    FileNotFoundError: if the folder or a raw file is missing.
  """
  configs = _configs(name)
  name = name.partition("/")[0]
  if not os.path.isdir(raw_dir) or not os.listdir(raw_dir):
    raise FileNotFoundError(
      f"expected a folder of raw files, but {os.fspath(raw_dir)} is none, or "
      f"empty. "
      f"{BUILDERS[name].MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()  # in a file it is a hundred lines
  folders = []
  for config in configs:
    builder = BUILDERS[name](
      data_dir=data_dir, config=config, file_format="array_record"
    )
    # Nothing is downloaded, but TFDS wants a folder for it.
    with tempfile.TemporaryDirectory() as download_dir:
      builder.download_and_prepare(
        download_dir=download_dir,
        download_config=tfds.download.DownloadConfig(
          manual_dir=raw_dir,
          # The sets that ship are small; of others TFDS knows how many.
          num_shards=None if name in _ONE_CONFIG else 1,
        ),
      )
    folders.append(pathlib.Path(builder.data_dir))
  return folders


def _configs(name: str) -> list[str | None]:
  """The configs that a name stands for."""
  data_set, _, config = name.partition("/")
  if data_set not in BUILDERS:
    raise ValueError(
      f"expected one of {sorted(BUILDERS)} as data set, got {name!r}"
    )
  known = list(BUILDERS[data_set].builder_configs)
  if config in known:
    return [config]
  if config or data_set in _ONE_CONFIG:
    raise ValueError(
      f"expected {data_set} with one of its configs, as "
      f"{data_set}/{(known or ['none'])[0]}, got {name!r}; they are {known}"
    )
  return [*known] or [None]
