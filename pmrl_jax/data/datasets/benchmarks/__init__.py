"""Annotation files of the retrieval benchmarks -> tables in manifest form.

- `benchmark_manifest`: one split of one data set as a `BenchmarkManifest`
- `BENCHMARKS`: what is known of each data set, by name
- `descriptions`: one literal description per data set
- `published`, `official`: the forms that annotation files come in
- `media`: which file belongs to an id

A row of the annotation file is a row of the table, whatever is missing: media
that are not there are empty cells, and `notes` counts them. Pages on every
data set: `docs/datasets/`.
"""

from pmrl_jax.data.datasets.benchmarks.descriptions import (
  BENCHMARKS,
  Benchmark,
)
from pmrl_jax.data.datasets.benchmarks.table import (
  BenchmarkManifest,
  benchmark_manifest,
)

__all__ = [
  "BENCHMARKS",
  "Benchmark",
  "BenchmarkManifest",
  "benchmark_manifest",
]
