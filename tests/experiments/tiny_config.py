"""The cheapest run with all the parts: two small tables, dropout, noise."""

import ml_collections

from experiments.configs import own_arrays


def get_config() -> ml_collections.ConfigDict:
  """Returns the config; train.npz and test.npz are in the working folder."""
  config = own_arrays.get_config()
  config.update_from_flattened_dict(
    {
      "steps": 60,
      "batch_size": 16,
      "log_every": 1,
      "data.modalities": ("a", "b"),
      "model.dim": 8,
      "model.default_encoder.width": 8,
      "optimizer.warmup_steps": 2,
      "evaluation.every": 20,
      "evaluation.batch_size": 16,
      "checkpoint.every": 4,
    }
  )
  config.transforms = {"a": {"random_gaussian_noise": {"std": 0.1}}}
  return config
