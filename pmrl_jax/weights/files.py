"""A checkpoint by its path: a file, its shards, or the folder of a run."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pmrl_jax.weights.safetensors_files import read_safetensors
from pmrl_jax.weights.tensors import LazyTensor
from pmrl_jax.weights.torch_files import read_torch

_TORCH = (".bin", ".pt", ".pth")
_SUFFIXES = (".safetensors", *_TORCH)
_INDEX = ".index.json"
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.\w+)")
# What a folder may hold, in the order in which it is looked for.
_NAMES = ("model.safetensors", "pytorch_model.bin")


class Checkpoint(NamedTuple):
  """A checkpoint that is open.

  Attributes:
    files: Where it is.
    tensors: `{key: tensor}`, still in the files.
    settings: Of the model, if there are any: those of BEATs in its file, a
      config.json beside it, or those of a run of the published code.
  """

  files: tuple[Path, ...]
  tensors: dict[str, LazyTensor]
  settings: dict[str, Any]


def open_checkpoint(path: str | os.PathLike) -> Checkpoint:
  """Opens a checkpoint; its tensors are read when they are asked for.

  Args:
    path: A file (.safetensors, or .pt, .pth and .bin of PyTorch), one of its
      shards, their index (.index.json), a folder with one of these, or the
      folder of a run of the published code: log/hps.json and
      ckpt/model_step_<k>.pt, or checkpoint-<k>/pytorch_model.bin, whose
      highest k is taken.

  Returns:
    The checkpoint.

  Raises:
    FileNotFoundError: If there is nothing, or shards are missing.
    ValueError: If it is no checkpoint, is damaged, or contains more than
      weights.
    ImportError: If what reads it is not installed.
  """
  path = Path(path)
  if not path.exists():
    raise FileNotFoundError(f"{path} does not exist")
  files = _in_folder(path) if path.is_dir() else _with_shards(path)
  tensors: dict[str, LazyTensor] = {}
  settings = _settings(path if path.is_dir() else path.parent)
  for file in files:
    found, beside = _read(file)
    settings = {**beside, **settings}
    if twice := sorted(tensors.keys() & found.keys()):
      raise ValueError(f"{file}: {twice[:5]} are in another shard already")
    tensors.update(found)
  _check_index(files, tensors)
  return Checkpoint(tuple(files), tensors, settings)


def _read(file: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
  """One file, by its suffix."""
  if file.suffix not in _SUFFIXES:
    raise ValueError(
      f"{file} is no checkpoint by its name; expected one of "
      f"{', '.join(_SUFFIXES)}, their {_INDEX}, or a folder"
    )
  with file.open("rb") as opened:
    start = opened.read(64)
  if not start:
    raise ValueError(f"{file} is empty; copy or download it again")
  if start.startswith(b"version https://git-lfs"):
    raise ValueError(
      f"{file} is a pointer of Git LFS, not the file itself; `git lfs pull` "
      "fetches it"
    )
  if file.suffix == ".safetensors":
    return read_safetensors(file), {}
  return read_torch(file)


def _in_folder(folder: Path) -> list[Path]:
  """The files of the checkpoint in a folder."""
  if steps := _numbered(folder / "ckpt", r"model_step_(\d+)\.pt"):
    return [steps[-1]]
  if steps := _numbered(folder, r"checkpoint-(\d+)"):
    return _in_folder(steps[-1])
  for name in _NAMES:
    for candidate in (folder / name, folder / (name + _INDEX)):
      if candidate.is_file():
        return _with_shards(candidate)
    if shards := sorted(folder.glob(_sharded(name))):
      return _with_shards(shards[0])
  others = [p for p in sorted(folder.iterdir()) if p.suffix in _SUFFIXES]
  if len(others) == 1 or _are_shards(others):
    return _with_shards(others[0])
  names = [other.name for other in others]
  raise FileNotFoundError(
    f"expected a checkpoint in {folder}: {', '.join(_NAMES)}, their shards, "
    "ckpt/model_step_<k>.pt or checkpoint-<k>/; "
    + (f"it has {names}, choose one" if names else "it has none")
  )


def _are_shards(files: Sequence[Path]) -> bool:
  """Whether all files are shards of the same checkpoint."""
  matches = [_SHARD.fullmatch(file.name) for file in files]
  return len({m and (m[1], m[3], m[4]) for m in matches}) == 1 and all(matches)


def _numbered(folder: Path, pattern: str) -> list[Path]:
  """What a folder has under names with a number, by the number."""
  if not folder.is_dir():
    return []
  matches = [(re.fullmatch(pattern, p.name), p) for p in folder.iterdir()]
  return [p for _, p in sorted((int(m[1]), p) for m, p in matches if m)]


def _with_shards(file: Path) -> list[Path]:
  """A file on its own, or all shards if it is one of them or their index."""
  if file.name.endswith(_INDEX):
    return [file.with_name(name) for name in sorted(set(_index(file).values()))]
  match = _SHARD.fullmatch(file.name)
  if not match:
    return [file]
  stem, _, total, suffix = match.groups()
  shards = [
    file.with_name(f"{stem}-{number:05}-of-{total}{suffix}")
    for number in range(1, int(total) + 1)
  ]
  if missing := [shard.name for shard in shards if not shard.is_file()]:
    raise FileNotFoundError(
      f"{file} is one of {int(total)} shards, and these are missing: {missing}"
    )
  return shards


def _sharded(name: str) -> str:
  stem, _, suffix = name.rpartition(".")
  return f"{stem}-?????-of-?????.{suffix}"


def _index(file: Path) -> dict[str, str]:
  """Which shard has which key, as an index says."""
  content = _json(file)
  names = content.get("weight_map")
  if not isinstance(names, dict) or not all(
    isinstance(name, str) and Path(name).name == name for name in names.values()
  ):
    raise ValueError(
      f"{file} should hold a weight_map, {{key: name of a file beside it}}"
    )
  missing = sorted(
    name for name in set(names.values()) if not file.with_name(name).is_file()
  )
  if missing:
    raise FileNotFoundError(f"{file} names shards that are missing: {missing}")
  return names


def _check_index(files: Sequence[Path], tensors: dict[str, LazyTensor]) -> None:
  """Checks that shards hold what their index says, if there is one."""
  match = _SHARD.fullmatch(files[0].name)
  if not match:
    return
  file = files[0].with_name(match[1] + match[4] + _INDEX)
  if not file.is_file():
    return
  if missing := sorted(set(_index(file)) - set(tensors)):
    raise ValueError(
      f"{file} lists {len(missing)} keys that its shards do not have: "
      f"{missing[:5]}"
    )


def _settings(folder: Path) -> dict[str, Any]:
  """The config.json in a folder, or the log/hps.json of a published run."""
  file = folder / "config.json"
  if not file.is_file():
    file = folder / "log" / "hps.json"
  if not file.is_file():
    return {}
  content = _json(file)
  options = content.get("model_cfg", content)
  return options if isinstance(options, dict) else {}


def _json(file: Path) -> dict[str, Any]:
  try:
    content = json.loads(file.read_text("utf-8"))
  except ValueError as error:
    raise ValueError(f"{file} is no JSON: {error}") from None
  if not isinstance(content, dict):
    raise ValueError(f"{file} should hold a JSON object")
  return content
