"""Rows of a manifest as examples of a TFDS data set, encoded for storage.

| kind | feature | an absent one is |
|---|---|---|
| video | `{"frames": JPEG files, "times": float32 seconds}` | no frames |
| image | an image file, as bytes | no bytes |
| audio | a FLAC file, as bytes | no bytes |
| array | float32 `[...]` | of length 0 |
| vector | float32 `[dim]` | of length 0 |
| text | texts | no texts |

Beside them `id`, `source` ("" where unknown) and `label` (-1 where unknown).
Nothing of this needs TensorFlow, to write or to read.
"""

from __future__ import annotations

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from pmrl_jax.data.manifest.arrays import probe_array, read_array
from pmrl_jax.data.manifest.encoding import (
  Encoding,
  encode_audio,
  encode_image,
  encode_video,
)
from pmrl_jax.data.manifest.manifest import Manifest

Shape = tuple[int | None, ...]


def features_of(
  kinds: Mapping[str, str],
  *,
  array_shapes: Mapping[str, Sequence[int | None]] | None = None,
) -> tfds.features.FeaturesDict:
  """Returns the features of a data set with these modalities.

  Args:
    kinds: {modality: one of `KINDS`}.
    array_shapes: {modality: shape, None where it varies}, for every modality of
      kind "array"; the first length must vary, so that it can be 0. By
      default one axis.

  Raises:
    ValueError: if a modality has a name that TFDS cannot store, or a shape is
      not as said.
  """
  shapes = {name: tuple(shape) for name, shape in (array_shapes or {}).items()}
  features = {
    "id": tfds.features.Text(),
    "source": tfds.features.Text(),
    "label": np.int64,
  }
  for modality, kind in kinds.items():
    if "/" in modality or modality in features:
      raise ValueError(
        f"a modality cannot be called {modality!r} in a TFDS data set; rename "
        "the column"
      )
    features[modality] = _feature(kind, shapes.get(modality, (None,)))
  return tfds.features.FeaturesDict(features)


def find_array_shapes(manifest: Manifest) -> dict[str, Shape]:
  """Returns the shapes of a manifest's arrays, None where they vary.

  Reads the header of every file; those that cannot be read say nothing here.

  Returns:
    {modality of kind "array": shape}, the first length always None.

  Raises:
    ValueError: if arrays of one modality differ in their number of axes.
  """
  shapes: dict[str, Shape] = {}
  for column, (modality, kind) in enumerate(manifest.kinds.items()):
    if kind != "array":
      continue
    found: Shape | None = None
    for row in np.flatnonzero(manifest.where[:, column]).tolist():
      try:
        path = cast(pathlib.Path, manifest.value(row, modality))
        shape = probe_array(path)
      except (ValueError, OSError):
        continue
      if found is None:
        found = shape
      if len(found) != len(shape):
        raise ValueError(
          f"expected arrays of {len(found)} axes in {modality!r} as in the "
          f"rows before, got shape {shape} in row {row} (id "
          f"{manifest.ids[row]!r}); make two columns of them"
        )
      found = tuple(a if a == b else None for a, b in zip(found, shape))
    shapes[modality] = (None, *(found or (None,))[1:])
  return shapes


def example_of(
  manifest: Manifest,
  row: int,
  encoding: Encoding,
  *,
  broken: dict[str, str] | None = None,
) -> dict[str, Any]:
  """Returns a row as an example, its media encoded.

  Args:
    manifest: the manifest.
    row: from 0.
    encoding: how media are stored.
    broken: takes {modality: reason} of what cannot be read, which then is
      absent from the example; nothing ever stands in for it.

  Returns:
    What `serialize` takes.

  Raises:
    ValueError: if something cannot be read and `broken` is None.
  """
  labels, sources = manifest.labels, manifest.sources
  example: dict[str, Any] = {
    "id": manifest.ids[row],
    "source": "" if sources is None else sources[row],
    "label": -1 if labels is None else int(labels[row]),
  }
  for modality, kind in manifest.kinds.items():
    try:
      value = manifest.value(row, modality)
      if value is not None:
        value = _ENCODERS[kind](value, encoding)
    except (ValueError, OSError) as error:
      if broken is None:
        raise ValueError(
          f"row {row} (id {manifest.ids[row]!r}), {modality}: {error}"
        ) from error
      broken[modality] = " ".join(str(error).split())
      value = None
    example[modality] = value
  return example


def serialize(
  features: tfds.features.FeaturesDict, example: Mapping[str, Any]
) -> bytes:
  """Returns the bytes of an example, always the same ones.

  TFDS's own `serialize_example` orders the features anew in every process.

  Args:
    features: from `features_of`.
    example: from `example_of`; None where a modality is absent.
  """
  serializer = example_serializer.ExampleSerializer(
    features.get_serialized_info()
  )
  encoded = features.encode_example(complete(features, example))
  proto = serializer.get_tf_example(encoded)
  return proto.SerializeToString(deterministic=True)


def complete(
  features: tfds.features.FeaturesDict, example: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns an example as a TFDS builder yields it, nothing of it None.

  Args:
    features: those of the data set, from `features_of`.
    example: from `example_of`; None where a modality is absent.
  """
  return {
    name: _absent(features[name]) if value is None else value
    for name, value in example.items()
  }


def _feature(kind: str, shape: Shape) -> Any:
  content = functools.partial(tfds.features.Tensor, shape=(), dtype=np.object_)
  if kind == "video":
    return {
      "frames": tfds.features.Sequence(content()),
      "times": tfds.features.Sequence(np.float32),
    }
  if kind in ("image", "audio"):
    return content()
  if kind == "text":
    return tfds.features.Sequence(tfds.features.Text())
  if shape[0] is not None:
    raise ValueError(f"expected an array whose length varies, got {shape}")
  # Of several lengths that vary, TFDS finds an empty array's only if its bytes
  # are not empty, as those of zlib never are.
  is_dynamic = shape.count(None) > 1
  return tfds.features.Tensor(
    shape=shape, dtype=np.float32, encoding="zlib" if is_dynamic else "bytes"
  )


def _absent(feature: Any) -> Any:
  if isinstance(feature, tfds.features.FeaturesDict):
    return {name: [] for name in feature}
  if isinstance(feature, tfds.features.Sequence):
    return []
  if feature.shape:
    return np.zeros([length or 0 for length in feature.shape], np.float32)
  return b""


# From what `Manifest.value` gives to what is stored.
_ENCODERS: dict[str, Callable[[Any, Encoding], Any]] = {
  "video": encode_video,
  "audio": encode_audio,
  "image": encode_image,
  "array": lambda path, _: read_array(path),
  "vector": lambda vector, _: vector,
  "text": lambda texts, _: texts,
}
