"""Examples -> global batches, in NumPy.

- `datasets`: data sets by name, and the builders that prepare them
- `Source`: what belongs together. `ArraySource`: aligned rows in memory;
  `ClassPairedSource`: items that share only a class; `RowSource`: rows that are
  decoded when needed. `Mixture`: several of them; `View`: a part of one
- `training_iterator`, `evaluation_batches`: a source's batches (grain)
- `vision`, `audio`, `text`, `tabular`: decoding and random transforms
- `read_records`: a prepared TFDS data set as columns
"""

from pmrl_jax.data.failures import (
  Failure,
  FailureLog,
  TooManyFailuresError,
)
from pmrl_jax.data.mixture import Mixture
from pmrl_jax.data.pipeline import (
  Batch,
  Transform,
  evaluation_batches,
  first_instances,
  training_iterator,
)
from pmrl_jax.data.records import read_records
from pmrl_jax.data.rows import Input, Rows, RowSource
from pmrl_jax.data.sources import (
  ArraySource,
  ClassPairedSource,
  Source,
  Spec,
  Table,
)
from pmrl_jax.data.view import View

__all__ = [
  "ArraySource",
  "Batch",
  "ClassPairedSource",
  "Failure",
  "FailureLog",
  "Input",
  "Mixture",
  "RowSource",
  "Rows",
  "Source",
  "Spec",
  "Table",
  "TooManyFailuresError",
  "Transform",
  "View",
  "evaluation_batches",
  "first_instances",
  "read_records",
  "training_iterator",
]
