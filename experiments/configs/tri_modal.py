"""Images, spoken words and written words of the ten digits, from scratch.

  python -m experiments.train --config=experiments/configs/tri_modal.py

Data: `multimodal_digits`, which ships with the package. The modalities come
from different people and pair by class only, so retrieval is class-level and
instances of one class are not each other's negatives.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.steps = 800
  config.batch_size = 128  # global: over all devices of all processes
  # How many instances are encoded at a time, to save memory; None: all. The
  # negatives are those of the whole batch in any case.
  config.micro_batch_size = config_dict.placeholder(int)
  config.log_every = 10
  config.max_skipped = 10  # steps in a row without a finite gradient
  # Parameters to start from: a folder that experiments.convert wrote, or that
  # of a run (its best checkpoint), or several with commas between them.
  config.init_from = config_dict.placeholder(str)
  # Of the encoders; "bfloat16" also, or, on GPUs that lack it, "float16" (the
  # loss is then scaled). Parameters and the loss are float32 in any case.
  config.precision = "float32"
  # Sizes of the axes of the devices; -1: what is left over. The batch is split
  # over both, parameters and moments over `fsdp` only.
  config.mesh = {"data": -1, "fsdp": 1}
  # Decay of an average of the parameters, such as 0.999, which is what is then
  # evaluated and what others start from; None: off.
  config.ema_decay = config_dict.placeholder(float)
  # Options of XLA for the training step, by name; see docs/launch.md.
  config.compiler_options = {}

  config.data = {
    "name": "multimodal_digits",
    "modalities": ("image", "speech", "text"),
    "ids": "label",  # whose negatives an instance is not
  }
  # How batches are made; see pmrl_jax.data.training_iterator.
  config.pipeline = {"prefetch": 2, "num_threads": 1, "num_workers": 0}
  # Random changes of the training inputs: functions of pmrl_jax.data.
  config.transforms = {
    "speech": {
      "random_time_shift": {"max_samples": 800},  # 0.1 s
    },
  }

  transformer = {"width": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0}
  config.model = {
    "dim": 64,
    "encoders": {
      "image": {
        "kind": "vision_transformer",
        "patch_size": 2,  # pixels
        "dropout_rate": 0.1,
        **transformer,
        "depth": 3,
      },
      "speech": {
        "kind": "spectrogram_transformer",
        "sample_rate": 8000,  # Hz
        "max_masked_mels": 8,
        "max_masked_frames": 20,
        "dropout_rate": 0.1,
        **transformer,
      },
      "text": {
        "kind": "character_transformer",
        "dropout_rate": 0.1,
        **transformer,
      },
    },
  }
  config.loss = {
    "alignment_temperature": 1.0,
    "instance_temperature": 0.1,
    "instance_weight": 3.0,
    "orientation": "consensus",  # "free" is the published form
    "contrast": "pairs",
    "solver": "gram",
  }
  # How devices come to each other's embeddings; "ring" takes the same memory
  # on any number of them, see docs/scale.md.
  config.route = "gather"
  config.optimizer = {
    "learning_rate": 3e-3,
    "warmup_steps": 50,
    "weight_decay": 1e-4,
    "clip_norm": 1.0,
  }
  config.evaluation = {
    "every": 200,  # steps
    "batch_size": 256,
    "level": "class",  # or "instance": what counts as found
    "allow_missing": False,  # whether held-out data may be incomplete
  }
  config.checkpoint = {
    "every": 100,  # steps
    "retention": {
      "keep": 2,  # newest ones, beside the best
      "best_metric": "mean_R@1",
      "best_mode": "max",
    },
  }
  return config
