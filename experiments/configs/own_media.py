r"""Your own media: a table with a path or a text per modality.

  python -m experiments.train --config=experiments/configs/own_media.py \
    --config.data.train=train.jsonl --config.data.test=test.jsonl \
    --workdir=runs/mine

A row of the table (parquet, JSON lines or CSV) is an instance: its `id`, and a
path, a text or numbers for each modality; an empty cell is an absent modality.
`python -m experiments.prepare validate train.jsonl` tells what is wrong with
it. See docs/data.md.
"""

import ml_collections
from ml_collections import config_dict

from experiments.configs import tri_modal


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = tri_modal.get_config()
  config.data = {
    "name": "manifest",
    "train": "train.jsonl",
    "test": "test.jsonl",
    # Of one table with a column `split`: which rows.
    "train_split": config_dict.placeholder(str),
    "test_split": config_dict.placeholder(str),
    "root": config_dict.placeholder(str),  # of the paths; default: the table's
    "modalities": ("video", "audio", "text"),
    "kinds": {},  # {modality: kind}, where the values do not say
    # What the encoders get: classes of pmrl_jax.data.inputs.
    "inputs": {
      "video": {
        "kind": "video",
        "num_frames": 4,
        "resolution": 96,  # pixels
        "transform": "random_crop",
      },
      "audio": {
        "kind": "waveform",
        "num_samples": 80_000,  # 5 s
        "sample_rate": 16_000,  # Hz
      },
      "text": {"kind": "characters", "length": 96},
    },
    # Share of the training examples that may be unreadable: they are skipped,
    # counted, and listed in bad_examples.jsonl.
    "max_bad_share": 0.01,
  }
  config.pipeline = {"prefetch": 4, "num_threads": 2, "num_workers": 0}
  config.transforms = {}
  config.batch_size = 32
  transformer = {
    "width": 128,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 4.0,
    "dropout_rate": 0.1,
  }
  config.model = {
    "dim": 128,
    "encoders": {
      "video": {"kind": "vision_transformer", "patch_size": 16, **transformer},
      "audio": {
        "kind": "spectrogram_transformer",
        "sample_rate": 16_000,  # Hz
        **transformer,
      },
      "text": {"kind": "character_transformer", **transformer},
    },
  }
  config.evaluation.batch_size = 32
  config.evaluation.level = "instance"
  return config
