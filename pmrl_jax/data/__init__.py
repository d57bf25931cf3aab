"""Examples -> global batches, in NumPy.

- `datasets`: data sets by name, and the builders that prepare them
- `Source`: what belongs together. `ArraySource`: aligned rows;
  `ClassPairedSource`: items that share only a class
- `training_iterator`, `evaluation_batches`: a source's batches (grain)
- `vision`, `audio`, `text`, `tabular`: decoding and random transforms
- `read_records`: a prepared TFDS data set as columns
"""

from pmrl_jax.data.pipeline import (
  Batch,
  Transform,
  evaluation_batches,
  training_iterator,
)
from pmrl_jax.data.records import read_records
from pmrl_jax.data.sources import (
  ArraySource,
  ClassPairedSource,
  Source,
  Spec,
  Table,
)

__all__ = [
  "ArraySource",
  "Batch",
  "ClassPairedSource",
  "Source",
  "Spec",
  "Table",
  "Transform",
  "evaluation_batches",
  "read_records",
  "training_iterator",
]
