"""ABIDE: functional connectivity, brain structure and phenotype of one person.

From a user's own copy of the Autism Brain Imaging Data Exchange as
preprocessed by the Preprocessed Connectomes Project (C. Craddock et al., "The
Neuro Bureau Preprocessing Initiative", Frontiers in Neuroinformatics 2013).

- `abide`: one split as training and test source
- `read_abide`: the tables of all subjects
- `leave_site_out_splits`, `ten_fold_splits`: who trains, who is tested;
  `choose_split`: one of them
- `split_sources`: tables and a split -> sources, scaled by the training rows
- `connectivity`, `structure`, `phenotype`: one kind of file each
"""

from pmrl_jax.data.datasets.abide.splits import (
  Split,
  abide,
  choose_split,
  leave_site_out_splits,
  split_sources,
  ten_fold_splits,
)
from pmrl_jax.data.datasets.abide.tables import (
  MODALITIES,
  AbideTables,
  read_abide,
)

__all__ = [
  "MODALITIES",
  "AbideTables",
  "Split",
  "abide",
  "choose_split",
  "leave_site_out_splits",
  "read_abide",
  "split_sources",
  "ten_fold_splits",
]
