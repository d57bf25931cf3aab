"""The ten digits with a fourth modality, the path of the pen.

python -m experiments.train --config=experiments/configs/four_modal.py
"""

import ml_collections

from experiments.configs import tri_modal


def get_config() -> ml_collections.ConfigDict:
  """Returns the config: `tri_modal` and one more encoder."""
  config = tri_modal.get_config()
  config.data.modalities = ("image", "speech", "text", "pen")
  config.model.encoders.pen = {
    "kind": "trajectory_transformer",
    "width": 64,
    "depth": 2,
    "num_heads": 4,
    "mlp_ratio": 2.0,
    "dropout_rate": 0.1,
  }
  return config
