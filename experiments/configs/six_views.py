"""Six views of the same handwritten digits, where instances are real.

  python -m experiments.train --config=experiments/configs/six_views.py

Data: UCI Multiple Features, which ships with the package. Fourier and
morphological features (fou, mor) hardly tell instances apart, since rotation
makes 6 and 9 alike: a test of modalities that are unequal.
"""

import ml_collections

from experiments.configs import tri_modal


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = tri_modal.get_config()
  config.steps = 400
  config.batch_size = 256
  config.data = {
    "name": "mfeat",
    "modalities": ("pix", "fou", "fac", "zer", "kar", "mor"),
  }
  config.transforms = {}
  config.model.encoders = {
    view: {
      "kind": "table",
      "width": 256,
      "depth": 1,
      "dropout_rate": 0.2,
      "input_dropout_rate": 0.1,
    }
    for view in config.data.modalities
  }
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-2
  config.evaluation.every = 100
  config.evaluation.level = "instance"
  return config
