"""The same data set as `build` writes, by Apache Beam on many machines.

All machines must see the manifest, its files and the output under the same
paths, as on a shared file system.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any

from pmrl_jax.data.manifest.building import Built, finish
from pmrl_jax.data.manifest.encoding import Encoding
from pmrl_jax.data.manifest.manifest import Manifest
from pmrl_jax.data.manifest.planning import claim, plan
from pmrl_jax.data.manifest.shards import write_shard


def build_with_beam(
  manifest: Manifest,
  output: str | os.PathLike[str],
  *,
  encoding: Encoding | None = None,
  name: str | None = None,
  num_shards: int | None = None,
  max_bad: float = 0.01,
  pipeline_options: Sequence[str] = (),
) -> Built:
  """Writes a manifest as a TFDS data set, by a Beam pipeline.

  The files are those of `build`, to the last byte, and a pipeline that failed
  goes on where it was in the same way. Broken rows are counted at the end.

  Args:
    manifest: see `build`.
    output: see `build`.
    encoding: see `build`.
    name: see `build`.
    num_shards: see `build`.
    max_bad: see `build`.
    pipeline_options: Beam's flags, as `["--runner=DirectRunner"]`.

  Returns:
    What was built.

  Raises:
    ImportError: if Beam is not installed.
    TooManyFailuresError: see `build`.
    ValueError: see `build`.
  """
  beam = _import_beam()
  options = beam.options.pipeline_options.PipelineOptions(
    list(pipeline_options)
  )
  work, shards = plan(
    manifest,
    output,
    encoding=encoding or Encoding(),
    name=name,
    num_shards=num_shards,
  )
  with claim(work, shards) as done:
    todo = [shard for shard in shards if shard.file_name(work.name) not in done]
    with beam.Pipeline(options=options) as pipeline:
      # Without a reshuffle, one worker would get all shards.
      _ = (
        pipeline
        | "shards" >> beam.Create(todo)
        | "spread" >> beam.Reshuffle()
        | "write" >> beam.Map(functools.partial(write_shard, work))
      )
    return finish(work, shards, max_bad=max_bad)


def _import_beam() -> Any:
  try:
    import apache_beam
    import apache_beam.options.pipeline_options
  except ImportError as error:
    raise ImportError(
      "building with Beam needs Apache Beam: pip install 'pmrl_jax[beam]'"
    ) from error
  return apache_beam
