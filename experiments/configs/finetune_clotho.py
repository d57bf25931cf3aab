r"""Fine-tuning of PMRL on Clotho: text to sound, nothing else.

  python -m experiments.train --config=experiments/configs/finetune_clotho.py \
    --config.data.vocabulary=bert-base-uncased/vocab.txt \
    --config.init_from=params/pmrl --workdir=runs/finetune_clotho

Recipe: the configuration of the published code, Liu, Xia, Ng, Chua, arXiv
2507.17343, which cannot train without vision: 10 epochs of 64 instances, 3
clips of sound; learning rate and temperatures are those of its other
fine-tuning. There is no vision tower in the model; a converted checkpoint's is
left out.

Figure to reach: none of the paper's was found (docs/published_model.md).

Data: clotho/train.parquet and clotho/test.parquet (docs/datasets/clotho.md).
All five captions of a recording are trained with, and ask in tests.
"""

import ml_collections

from experiments.configs import published


def get_config() -> ml_collections.ConfigDict:
  """Returns the config."""
  config = published.get_config()
  published.set_data(
    config, "clotho", modalities=("text", "audio"), task="ta", clips=3
  )
  published.set_steps(config, rows=3_839, epochs=10)
  return config
