"""Files of the safetensors format, tensor by tensor."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from pmrl_jax.weights.tensors import LazyTensor

_DTYPES = {
  "F64": np.float64,
  "F32": np.float32,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "I64": np.int64,
  "I32": np.int32,
  "I16": np.int16,
  "I8": np.int8,
  "U64": np.uint64,
  "U32": np.uint32,
  "U16": np.uint16,
  "U8": np.uint8,
  "BOOL": np.bool_,
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
  """The tensors of a file, still in it.

  Args:
    path: Of the file.

  Returns:
    `{key: tensor}`, in the file's order.

  Raises:
    ValueError: If it is not such a file, or is truncated.
    ImportError: If safetensors is not installed.
  """
  with _open(path) as file:
    specs = {key: file.get_slice(key) for key in file.keys()}
    forms = {
      key: (tuple(spec.get_shape()), spec.get_dtype())
      for key, spec in specs.items()
    }
  for key, (_, name) in forms.items():
    if name not in _DTYPES:
      raise ValueError(
        f"{path}: {key} is of the type {name}, which is not read; expected "
        f"one of {', '.join(_DTYPES)}"
      )

  def tensor(key: str) -> LazyTensor:
    shape, name = forms[key]

    # The file is mapped to memory anew each time: pages of a mapping count as
    # memory of the process for as long as it is open.
    def read() -> np.ndarray:
      with _open(path) as file:
        return file.get_tensor(key)

    return LazyTensor(shape, np.dtype(_DTYPES[name]), read)

  return {key: tensor(key) for key in forms}


def read_metadata(path: Path) -> dict[str, str]:
  """The strings in the header of a file.

  Args:
    path: Of the file.

  Raises:
    ValueError: If it is not such a file, or is truncated.
    ImportError: If safetensors is not installed.
  """
  with _open(path) as file:
    return dict(file.metadata() or {})


def write_safetensors(
  path: str | os.PathLike,
  tensors: Mapping[str, LazyTensor],
  *,
  metadata: Mapping[str, str] | None = None,
) -> Iterable[str]:
  """Writes a file, one tensor in memory at a time.

  A generator: what is written is what is iterated over. The file gets its
  name at the end, so an interrupted one is never taken for whole.

  Args:
    path: Of the file; it is replaced if it is there.
    tensors: `{key: tensor}`.
    metadata: Strings for the header. `format` is "pt" unless it is given: the
      axes lie as PyTorch has them.

  Yields:
    Each key, once its tensor is written.

  Raises:
    ValueError: If a dtype has no name in the format, or an array is not of
      the shape and dtype that was announced.
  """
  path = Path(path)
  # Wider numbers first, so that every tensor lies at a multiple of its width.
  keys = sorted(tensors, key=lambda key: -tensors[key].dtype.itemsize)
  header: dict[str, Any] = {
    "__metadata__": {"format": "pt", **(metadata or {})}
  }
  offset = 0
  for key in keys:
    tensor = tensors[key]
    if tensor.dtype not in _NAMES:
      raise ValueError(
        f"{key} is {tensor.dtype}, which safetensors cannot hold; expected "
        f"one of {', '.join(map(str, _NAMES))}"
      )
    header[key] = {
      "dtype": _NAMES[tensor.dtype],
      "shape": list(tensor.shape),
      "data_offsets": [offset, offset + tensor.nbytes],
    }
    offset += tensor.nbytes
  encoded = json.dumps(header, separators=(",", ":")).encode()
  encoded += b" " * (-len(encoded) % 8)
  partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
  try:
    with partial.open("wb") as file:
      file.write(len(encoded).to_bytes(8, "little") + encoded)
      for key in keys:
        array = np.asarray(tensors[key].read(), order="C")
        if (array.shape, array.dtype) != tensors[key][:2]:
          raise ValueError(
            f"{key} should be {tensors[key].dtype} {tensors[key].shape}, got "
            f"{array.dtype} {array.shape}"
          )
        # As bytes: not every dtype of JAX has a buffer that Python can read.
        file.write(array.reshape(-1).view(np.uint8).data)
        yield key
    partial.rename(path)
  finally:
    partial.unlink(missing_ok=True)


def _open(path: Path) -> Any:
  """Opens a file, or says why it cannot be one."""
  try:
    import safetensors
  except ImportError as error:
    raise ImportError(
      f"{path} needs safetensors: pip install 'pmrl_jax[train]'"
    ) from error
  try:
    return safetensors.safe_open(path, framework="numpy")
  except safetensors.SafetensorError as error:
    raise ValueError(
      f"{path} is no safetensors file, or it is truncated ({error}); copy or "
      "download it again"
    ) from None
