r"""The published model at its full size, on a table of clips of your own.

  python -m experiments.train --config=experiments/configs/published.py \
    --config.data.train=train.parquet --config.data.test=test.parquet \
    --config.data.vocabulary=bert-base-uncased/vocab.txt \
    --config.init_from=params/pmrl --workdir=runs/published

What the configs of the paper's experiments have in common; pmrl_vast150k.py
and finetune_*.py change it in place. Recipe: Liu, Xia, Ng, Chua, Principled
Multimodal Representation Learning, arXiv 2507.17343, on the parts of VAST,
arXiv 2305.18500: 64 instances on 4 GPUs, AdamW, a linear warm-up of a tenth of
the steps and a linear decay, 5e-7 for the vision tower.

Data: `experiments.prepare manifest` writes the tables (docs/datasets), with the
columns `video`, `audio`, `text` and, where there are any, `subtitle`. Folders
that `experiments.prepare build` made are read with

  --config.data.name=tfds --config.data.data_set=FOLDER \
    --config.data.train=train --config.data.test=test

Parameters: see docs/published_model.md.
"""

import ml_collections
from ml_collections import config_dict

from experiments.configs import tri_modal
from pmrl_jax.encoders import PUBLISHED_FUSIONS
from pmrl_jax.losses import PUBLISHED
from pmrl_jax.training import PUBLISHED_OPTIMIZER


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = tri_modal.get_config()
  config.seed = 50
  config.batch_size = 64
  config.steps = 1000
  config.precision = "bfloat16"
  config.transforms = {}
  config.pipeline = {"prefetch": 4, "num_threads": 8, "num_workers": 0}
  config.data = _data()
  config.model = _model(config.data.inputs)
  # Temperatures and terms; `solver` makes no difference but in speed.
  config.loss = {**PUBLISHED, "solver": "gram"}
  config.matching = {
    "tasks": ("tva",),  # captions, and what they are matched with
    "matching_weight": 0.1,
    "pairwise_weight": 0.0,  # 1 trains joint features and temperature, as VAST
    "label_smoothing": 0.0,  # of the pairwise term
    # Groups of the batch that do not see each other in the spectral terms. 4 is
    # what 4 GPUs of the published code do.
    "num_groups": 1,
    # Pools of the batch from which hard negatives are drawn; -1: as many as
    # there are devices, so that nothing is sent for them (docs/scale.md).
    "num_pools": 1,
  }
  config.optimizer = _optimizer()
  config.optimizer.warmup_steps = config.get_ref("steps").to_float() * 0.1
  config.evaluation = {
    "every": config.get_ref("steps") // 10,
    "batch_size": 64,
    "level": "instance",
    # Clips without sound and empty subtitles are absent; figures then come with
    # the share of the gallery that is there.
    "allow_missing": True,
    "rerank": 50,  # candidates that the matching head looks at; 0: off
    "tasks": (),  # what is to be found; none: as in training
  }
  config.checkpoint = {
    "every": config.get_ref("steps") // 10,
    "retention": {
      "keep": 1,
      "best_metric": "reranked_R@1",
      "best_mode": "max",
    },
  }
  return config


def set_steps(
  config: ml_collections.ConfigDict, *, rows: int, epochs: float
) -> None:
  """Sets the number of steps as published.

  Args:
    config: The config, with its batch size.
    rows: Rows of the training data.
    epochs: How often each is seen.
  """
  config.steps = int(rows // config.batch_size * epochs)


def set_data(
  config: ml_collections.ConfigDict,
  folder: str,
  *,
  modalities: tuple[str, ...] = ("text", "vision", "audio"),
  task: str,
  clips: int = 1,
  caption_length: int = 40,
  train_frames: int = 8,
  test_frames: int = 8,
) -> None:
  """Sets the tables of a data set and what is read of them.

  Args:
    config: The config.
    folder: Where train.parquet and test.parquet are.
    modalities: Which the run reads, in the order of the model.
    task: Captions, and what they are matched with, by first letters.
    clips: Pieces of a sound.
    caption_length: Tokens of a caption.
    train_frames: Frames of a video in training.
    test_frames: In evaluations.
  """
  data = config.data
  data.train = f"{folder}/train.parquet"
  data.test = f"{folder}/test.parquet"
  data.modalities = modalities
  data.inputs.text.length = caption_length
  data.inputs.audio.num_clips = clips
  data.inputs.vision.num_frames = train_frames
  data.test_inputs.vision.num_frames = test_frames
  config.matching.tasks = (task,)


def _data() -> dict:
  """What is read; frames and clips are those of fine-tuning on MSR-VTT."""
  vocabulary = config_dict.FieldReference("bert-base-uncased/vocab.txt")
  return {
    "name": "manifest",  # or "tfds", for folders that were prepared
    "train": "train.parquet",
    "test": "test.parquet",
    "train_split": config_dict.placeholder(str),
    "test_split": config_dict.placeholder(str),
    "root": config_dict.placeholder(str),
    "data_set": config_dict.placeholder(str),
    "test_data_set": config_dict.placeholder(str),
    "modalities": ("text", "vision", "audio", "subtitle"),
    "columns": {"vision": "video"},  # {modality: column}, where they differ
    "kinds": {"audio": "audio"},  # of a column: sounds may lie in any files
    "vocabulary": vocabulary,  # the tokenizer of all texts
    "inputs": {
      "text": {"kind": "tokens", "tokenizer": vocabulary, "length": 40},
      "vision": {
        "kind": "video",
        "num_frames": 8,
        "resolution": 224,
        "transform": "none",
      },
      "audio": {"kind": "spectrogram", "num_clips": 1},
      "subtitle": {"kind": "tokens", "tokenizer": vocabulary, "length": 70},
    },
    # Of held-out data, where it differs.
    "test_inputs": {"vision": {"num_frames": 8, "transform": "none"}},
    "max_bad_share": 0.1,
  }


def _model(inputs: ml_collections.ConfigDict) -> dict:
  """EVA01-CLIP-g, BEATs, BERT, and what is between them.

  Args:
    inputs: `config.data.inputs`; there is an embedding for every frame and
      clip of the training data.
  """
  return {
    "kind": "pmrl",
    "dim": 512,
    "width": 768,  # of the text encoder and of what it looks at
    "caption": "text",
    # What is computed again in the backward pass: "none", "dots" or "full".
    "encoders": {
      "text": {"kind": "bert", "remat": "full"},
      "vision": {"kind": "eva", "head_width": 0, "remat": "full"},
      "audio": {"kind": "beats", "remat": "full"},
    },
    "modalities": {
      "text": {"encoder": "text", "conditions": False},
      "vision": {
        "encoder": "vision",
        "num_clips": inputs.vision.get_oneway_ref("num_frames"),
      },
      "audio": {
        "encoder": "audio",
        "pooling": "mean",
        "num_clips": inputs.audio.get_oneway_ref("num_clips"),
      },
      "subtitle": {"encoder": "text"},
    },
    "fusions": PUBLISHED_FUSIONS,
  }


def _optimizer() -> dict:
  """The published AdamW; what has no gradient follows from the tasks."""
  options = {
    name: value
    for name, value in PUBLISHED_OPTIMIZER.items()
    if name != "without_gradient"
  }
  return {
    **options,
    "clip_norm": config_dict.placeholder(float),  # published: none
    "learning_rate": 2e-5,
  }
