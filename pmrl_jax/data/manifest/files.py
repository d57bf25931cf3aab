"""One file of a manifest: is it what its column says, and how large."""

from __future__ import annotations

import pathlib

import numpy as np

from pmrl_jax.data.manifest.arrays import probe_array, read_array


def check_file(
  path: pathlib.Path, kind: str, *, deep: bool
) -> dict[str, float]:
  """Reads the headers of a file, or all of it.

  Args:
    path: the file.
    kind: what it should be, one of `FILE_KINDS`.
    deep: whether to decode everything in it.

  Returns:
    What there is to measure: "bytes", "seconds", "frames", "frames/s",
    "pixels" (of the shorter side), "Hz", "channels", "numbers", and whether a
    video has "sound"; what the headers leave open is left out.

  Raises:
    ValueError: if it is missing, another kind of file, or damaged.
  """
  if not path.exists():
    raise ValueError(f"{path}: there is no such file")
  if not path.is_file():
    raise ValueError(f"{path}: it is no file")
  size = path.stat().st_size
  if not size:
    raise ValueError(f"{path}: the file is empty")
  if kind == "array":
    shape = read_array(path).shape if deep else probe_array(path)
    return {"bytes": size, "numbers": float(np.prod(shape))}
  # Heavy, and needs an extra: only tables with such files pay for it.
  from pmrl_jax.data import decoding

  info = decoding.probe(path, kind)
  if deep:
    _decode(path, kind)
  sides = [side for side in (info.width, info.height) if side]
  measures = {
    "seconds": info.duration,
    "frames": info.num_frames if kind == "video" else None,
    "frames/s": info.frame_rate,
    "pixels": min(sides) if sides else None,
    "Hz": info.sample_rate,
    "channels": info.num_channels,
    "sound": getattr(info, "has_audio", None) if kind == "video" else None,
    "bytes": size,
  }
  return {name: float(v) for name, v in measures.items() if v is not None}


def _decode(path: pathlib.Path, kind: str) -> None:
  from pmrl_jax.data import decoding

  if kind == "image":
    decoding.read_image(path)
  elif kind == "audio":
    decoding.read_audio(path)
  else:
    # Every frame, but none kept in more than a few bytes.
    decoding.read_frames(path, lambda times: np.arange(len(times)), size=(8, 8))
