"""TFDS builders: they turn public raw files into prepared records.

They run once and are not used in training, which reads the prepared records:

    from pmrl_jax.data.datasets import builders
    builders.prepare("multimodal_digits", raw_dir="raw", data_dir="prepared")

The builder's `MANUAL_DOWNLOAD_INSTRUCTIONS` say which files `raw_dir` holds.
"""

from __future__ import annotations

import os
import pathlib
import tempfile

import tensorflow_datasets as tfds

from pmrl_jax.data.datasets.builders.mfeat import Mfeat
from pmrl_jax.data.datasets.builders.multimodal_digits import MultimodalDigits

__all__ = ["BUILDERS", "Mfeat", "MultimodalDigits", "prepare"]

BUILDERS: dict[str, type[tfds.core.GeneratorBasedBuilder]] = {
  "mfeat": Mfeat,
  "multimodal_digits": MultimodalDigits,
}


def prepare(
  name: str,
  *,
  raw_dir: str | os.PathLike[str],
  data_dir: str | os.PathLike[str],
) -> list[pathlib.Path]:
  """Prepares every config of a data set as ArrayRecord, one file per split.

  What is already prepared under `data_dir` is left as it is.

  Args:
    name: a key of `BUILDERS`.
    raw_dir: the folder of the public raw files.
    data_dir: the folder to write `<name>/<config>/<version>` into.

  Returns:
    The prepared folders.

  Raises:
    ValueError: if there is no such data set, or a raw file is malformed.
    FileNotFoundError: if the folder or a raw file is missing.
  """
  if name not in BUILDERS:
    raise ValueError(
      f"expected one of {sorted(BUILDERS)} as data set, got {name!r}"
    )
  if not os.path.isdir(raw_dir):
    raise FileNotFoundError(
      f"expected a folder of raw files, but {os.fspath(raw_dir)} is none. "
      f"{BUILDERS[name].MANUAL_DOWNLOAD_INSTRUCTIONS}"
    )
  folders = []
  for config in list(BUILDERS[name].builder_configs) or [None]:
    builder = BUILDERS[name](
      data_dir=data_dir, config=config, file_format="array_record"
    )
    # Nothing is downloaded, but TFDS wants a folder for it.
    with tempfile.TemporaryDirectory() as download_dir:
      builder.download_and_prepare(
        download_dir=download_dir,
        download_config=tfds.download.DownloadConfig(
          manual_dir=raw_dir, num_shards=1
        ),
      )
    folders.append(pathlib.Path(builder.data_dir))
  return folders
