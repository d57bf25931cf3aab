r"""Your own modalities: rows of numbers in two `.npz` files.

  python -m experiments.train --config=experiments/configs/own_arrays.py \
    --config.data.train=train.npz --config.data.test=test.npz \
    --config.data.modalities='("audio", "video")' --workdir=runs/mine

Each file holds one array `[instance, feature]` for each modality, standardised
by the mean and deviation of the training rows; row i is the same instance in
all of them. Optional: `labels` int `[instance]` (then classes are probed),
`ids` int `[instance]` (instances with the same id are never each other's
negatives) and `where` bool `[instance, modality]` (what is present).

Every modality gets the encoder `model.default_encoder`. For images, waveforms,
texts or trajectories copy this file and describe `model.encoders` one by one,
as tri_modal.py does.
"""

import ml_collections

from experiments.configs import six_views


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = six_views.get_config()
  config.data = {
    "name": "arrays",
    "train": "train.npz",
    "test": "test.npz",
    "modalities": ("first", "second"),
  }
  config.model.encoders = {}
  config.model.default_encoder = {
    "kind": "table",
    "width": 256,
    "depth": 1,
    "dropout_rate": 0.2,
    "input_dropout_rate": 0.1,
  }
  return config
