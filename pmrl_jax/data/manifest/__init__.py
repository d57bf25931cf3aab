"""Manifests: tables that say which values and files belong together.

- `read_manifest`: a parquet, JSON lines or CSV file as a `Manifest`
- `validate`: every row and every file looked at, in little memory
- `build`: a TFDS data set of it, with media encoded as `Encoding` says;
  `build_with_beam`: the same on many machines; `verify`: its checksums
- `features_of`, `example_of`, `complete`, `serialize`: rows as examples, for
  TFDS builders
- `write_table`: a table in manifest form as a file; `below`: its paths moved
"""

from pmrl_jax.data.manifest.beam import build_with_beam
from pmrl_jax.data.manifest.building import Built, build
from pmrl_jax.data.manifest.encoding import Encoding
from pmrl_jax.data.manifest.features import (
  complete,
  example_of,
  features_of,
  find_array_shapes,
  serialize,
)
from pmrl_jax.data.manifest.kinds import KINDS
from pmrl_jax.data.manifest.manifest import Manifest, read_manifest
from pmrl_jax.data.manifest.metadata import verify
from pmrl_jax.data.manifest.reading import Problem
from pmrl_jax.data.manifest.report import ManifestReport
from pmrl_jax.data.manifest.validation import validate
from pmrl_jax.data.manifest.writing import below, write_table

__all__ = [
  "KINDS",
  "Built",
  "Encoding",
  "Manifest",
  "ManifestReport",
  "Problem",
  "below",
  "build",
  "build_with_beam",
  "complete",
  "example_of",
  "features_of",
  "find_array_shapes",
  "read_manifest",
  "serialize",
  "validate",
  "verify",
  "write_table",
]
