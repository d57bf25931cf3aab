r"""Fine-tuning of PMRL on VATEX: text to video, sound and subtitles.

  python -m experiments.train --config=experiments/configs/finetune_vatex.py \
    --config.data.vocabulary=bert-base-uncased/vocab.txt \
    --config.init_from=params/pmrl --workdir=runs/finetune_vatex

Recipe: Liu, Xia, Ng, Chua, arXiv 2507.17343: 2.5 epochs of 64 instances, 8
frames in training and 16 in tests, learning rate 2e-5.

Figure to reach, R@1 in percent: text to video 84.1 (of the paper, as others
print it; docs/published_model.md).

Data: vatex/train.parquet and vatex/test.parquet (docs/datasets/vatex.md). The
published code trains and tests with the first caption of a clip; here one of
the ten is drawn in every epoch, and all ten ask in tests, so that figures do
not compare. Subtitles are in the JSON lists of the published code only; without
them `--config.data.modalities='("text", "vision", "audio")'` and
`--config.matching.tasks='("tva",)'`.
"""

import ml_collections

from experiments.configs import published


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = published.get_config()
  published.set_data(
    config,
    "vatex",
    modalities=("text", "vision", "audio", "subtitle"),
    task="tvas",
    train_frames=8,
    test_frames=16,
  )
  published.set_steps(config, rows=25_991, epochs=2.5)
  return config
