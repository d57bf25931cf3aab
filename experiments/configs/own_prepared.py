r"""Your own media as `experiments.prepare build` stores them: fast to read.

  python -m experiments.train --config=experiments/configs/own_prepared.py \
    --config.data.data_set=prepared/train \
    --config.data.test_data_set=prepared/test --workdir=runs/mine

The folders know their modalities. See docs/data.md.
"""

import ml_collections
from ml_collections import config_dict

from experiments.configs import own_media


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = own_media.get_config()
  data = config.data
  config.data = {
    "name": "tfds",
    "data_set": "prepared/train",  # a folder
    "test_data_set": config_dict.placeholder(str),  # default: the same
    "train": "train",  # splits, or slices as "train[:90%]"
    "test": "test",
    "modalities": data.modalities,
    "inputs": data.inputs.to_dict(),
    "max_bad_share": data.max_bad_share,
  }
  return config
