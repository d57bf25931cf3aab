"""Files that `torch.save` wrote, without ever running what they contain."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from pmrl_jax.weights.tensors import LazyTensor

# Under these a checkpoint may keep its state dict, beside other things.
INNER = ("state_dict", "model", "module")
# Before this one even weights alone could run code.
_OLDEST = (2, 6)
# Bytes after which a file is mapped to memory anew: the pages of a mapping
# count as memory of the process for as long as it is open.
_WINDOW = 64 * 2**20


def read_torch(path: Path) -> tuple[dict[str, LazyTensor], dict[str, Any]]:
  """The tensors of a file, still in it, and what lay beside them.

  Args:
    path: Of a file of `torch.save`: a state dict, or a dict that has one
      under a name of `INNER`.

  Returns:
    `{key: tensor}`, and the settings under `cfg`, if there are any.

  Raises:
    ValueError: If it is another file, is truncated, or contains anything but
      weights.
    ImportError: If PyTorch is not installed.
  """
  _check_no_program(path)
  file = _File(path)

  def tensor(key: str, loaded: Any) -> LazyTensor:
    shape, dtype = tuple(loaded.shape), _dtype(loaded, key, path)
    return LazyTensor(shape, dtype, lambda: file.read(key))

  tensors = {key: tensor(key, each) for key, each in file.tensors().items()}
  return tensors, file.settings


class _File:
  """A file that is mapped to memory, and again after a while."""

  def __init__(self, path: Path):
    self._path = path
    self._loaded: dict[str, Any] | None = None
    self._num_bytes = 0
    self._is_mapped = True
    self.settings: dict[str, Any] = {}

  def tensors(self) -> dict[str, Any]:
    """The state dict, of PyTorch's tensors."""
    if self._loaded is None:
      content, self._is_mapped = _load(self._path)
      self._loaded, self.settings = _state_dict(content, self._path)
    return self._loaded

  def read(self, key: str) -> np.ndarray:
    """A copy of one tensor."""
    array = _to_numpy(self.tensors()[key])
    self._num_bytes += array.nbytes
    if self._is_mapped and self._num_bytes > _WINDOW:
      self._loaded, self._num_bytes = None, 0
    return array


def _check_no_program(path: Path) -> None:
  """Checks by its names alone that an archive is not one of `torch.jit.save`.

  Such an archive has the source of a program beside its tensors, and loading
  it runs parts of that.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      names = {name.partition("/")[2] for name in archive.namelist()}
  except zipfile.BadZipFile:  # older, or damaged: torch.load tells
    return
  if "constants.pkl" in names and any(n.startswith("code/") for n in names):
    raise ValueError(
      f"{path} is a TorchScript archive (torch.jit.save), as OpenAI's own "
      "files of CLIP are: a program beside the weights, which may run when it "
      "is loaded; it was not. Take OpenCLIP's .safetensors of the same "
      "weights; or, if you trust the file, save its state dict once: "
      f"torch.save(torch.jit.load({str(path)!r}, map_location='cpu')"
      ".state_dict(), 'weights.pt')"
    )


def _load(path: Path) -> tuple[Any, bool]:
  """What a file holds, and whether it is mapped to memory."""
  torch = _torch(path)
  arguments: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
  with path.open("rb") as file:
    is_mapped = file.read(4) == b"PK\3\4"  # older files are no archives
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")  # of the pickle protocol and the like
      return torch.load(path, mmap=is_mapped, **arguments), is_mapped
  except Exception as error:  # torch raises many types
    text = str(error)
  if refused := re.findall(r"GLOBAL ([\w.]+)", text):
    raise ValueError(
      f"{path} contains more than weights ({refused[-1]}), which would have to "
      "be run to read it; it was not. Save the state dict alone: "
      "torch.save(model.state_dict(), path)"
    )
  if not text.strip() or "weights_only" in text:  # advice to run it anyway
    text = "a pickle of something else?"
  first = text.strip().splitlines()[0][:120]
  raise ValueError(
    f"{path} is no file of torch.save with weights alone, or it is truncated "
    f"({first}); nothing in it was run. Copy or download it again"
  )


def _torch(path: Path) -> Any:
  try:
    import torch
  except ImportError as error:
    raise ImportError(
      f"{path} is a file of PyTorch, which is not installed: pip install "
      "'pmrl_jax[torch]', or convert the file to .safetensors elsewhere"
    ) from error
  version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
  if version < _OLDEST:
    raise ImportError(
      f"PyTorch {torch.__version__} may run code that is hidden in {path}; "
      "pip install 'pmrl_jax[torch]' for a newer one"
    )
  return torch


def _state_dict(
  content: Any, path: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
  """The state dict in what was loaded, and the settings beside it."""
  settings: dict[str, Any] = {}
  while isinstance(content, Mapping):
    if isinstance(content.get("cfg"), Mapping):
      settings = dict(content["cfg"])
    inner = [n for n in INNER if isinstance(content.get(n), Mapping)]
    if not inner:
      break
    content = content[inner[0]]
  if not isinstance(content, Mapping) or not content:
    raise ValueError(
      f"{path} should hold a state dict, {{key: tensor}}, on its own or under "
      f"{', '.join(INNER)}, got {_described(content)}"
    )
  torch = _torch(path)
  for key, value in content.items():
    if not isinstance(key, str) or not isinstance(value, torch.Tensor):
      raise ValueError(
        f"{path}: {key!r} should be a tensor, got {_described(value)}"
      )
  return dict(content), settings


def _described(value: Any) -> str:
  if isinstance(value, Mapping):
    return f"a dict of {list(value)[:5]}" if value else "an empty dict"
  return f"{type(value).__name__} {str(value)[:40]!r}"


def _to_numpy(tensor: Any) -> np.ndarray:
  import torch

  if tensor.dtype == torch.bfloat16:  # unknown to NumPy
    return tensor.view(torch.int16).numpy().copy().view(jnp.bfloat16)
  return tensor.numpy().copy()


def _dtype(tensor: Any, key: str, path: Path) -> np.dtype:
  """The dtype of the array that a tensor becomes."""
  import torch

  if tensor.dtype == torch.bfloat16 and tensor.layout == torch.strided:
    return np.dtype(jnp.bfloat16)
  try:
    return tensor.new_empty(0).numpy().dtype
  except (TypeError, RuntimeError) as error:
    raise ValueError(
      f"{path}: {key} is a tensor that is not read ({tensor.dtype}, "
      f"{tensor.layout}): {error}"
    ) from None
