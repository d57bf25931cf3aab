"""Parameters alone in a folder of orbax, to start from or to hand on."""

import asyncio
import concurrent.futures
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

# Bytes that are kept in memory before they are written.
_BUFFER = 32 * 2**20
# Of a piece of an array, which is read or written as a whole.
_CHUNK = 32 * 2**20
# How many at a time: meanwhile they are in memory twice.
_PIECES = 1


def save_params(folder: str | os.PathLike, params: Any) -> None:
  """Saves a tree of NumPy arrays; the folder must not be there.

  One array is written after another, so that no second copy of them all is in
  memory.

  Args:
    folder: Where to.
    params: The nested dict.
  """
  with ocp.Checkpointer(_handler()) as checkpointer:
    checkpointer.save(
      Path(folder).absolute(),
      args=ocp.args.PyTreeSave(
        params,
        save_args=jax.tree.map(
          lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params
        ),
        ocdbt_target_data_file_size=_BUFFER,
      ),
    )


def params_shapes(folder: str | os.PathLike, part: str | None = None) -> Any:
  """Shapes and dtypes of saved parameters, as a tree.

  Args:
    folder: Where they are.
    part: Of a tree that holds more, such as a training state, what is wanted.

  Raises:
    ValueError: If the folder holds no parameters.
  """
  try:
    with ocp.Checkpointer(_handler(part)) as checkpointer:
      metadata = checkpointer.metadata(Path(folder).absolute())
    tree = metadata.item_metadata.tree
    tree = tree if part is None else tree[part]
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree
    )
  except Exception as error:  # orbax and its readers raise many types
    raise ValueError(
      f"{folder} holds no parameters, or they are damaged: "
      f"{type(error).__name__}: {str(error)[:200]}"
    ) from error


def load_params(folder: str | os.PathLike, part: str | None = None) -> Any:
  """Loads saved parameters, as a nested dict of NumPy arrays.

  Args:
    folder: Where they are.
    part: Of a tree that holds more, what is wanted; nothing else is read.

  Raises:
    ValueError: If the folder holds no parameters, or they are damaged.
  """
  return _restore(folder, params_shapes(folder, part), part)


def load_param(
  folder: str | os.PathLike, name: str, shape: Any, part: str
) -> np.ndarray:
  """Loads one of the parameters in a tree that holds more.

  Args:
    folder: Where they are.
    name: Its path, as "encoders_text/norm/scale".
    shape: Of it, from `params_shapes`.
    part: In which part of the tree it is.

  Raises:
    ValueError: If it is damaged, or none of them.
  """
  *parents, last = name.split("/")
  tree: dict[str, Any] = {last: shape}
  for parent in reversed(parents):
    tree = {parent: tree}
  (array,) = jax.tree.leaves(_restore(folder, tree, part))
  return array


def _restore(folder: str | os.PathLike, shapes: Any, part: str | None) -> Any:
  """Reads what `shapes` has, which is all of it unless there is a part."""
  args = jax.tree.map(
    lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes
  )
  restore = ocp.args.PyTreeRestore(restore_args=args)
  if part is not None:
    restore = ocp.args.PyTreeRestore(
      item={part: shapes}, restore_args={part: args}, partial_restore=True
    )
  try:
    with ocp.Checkpointer(_handler(part)) as checkpointer:
      restored = checkpointer.restore(Path(folder).absolute(), args=restore)
    return restored if part is None else restored[part]
  except Exception as error:
    raise ValueError(
      f"the parameters in {folder} are damaged: {type(error).__name__}: "
      f"{str(error)[:200]}"
    ) from error


def _handler(part: str | None = None) -> ocp.PyTreeCheckpointHandler:
  if part is not None:  # what else is there is of any types
    return ocp.PyTreeCheckpointHandler()
  return ocp.PyTreeCheckpointHandler(
    use_compression=False,  # numbers of a model hardly shrink
    type_handler_registry=(
      ocp.type_handlers.create_type_handler_registry((np.ndarray, _OneByOne()))
    ),
  )


class _OneByOne(ocp.type_handlers.NumpyHandler):
  """Writes and reads piece by piece, where orbax has everything in flight."""

  def __init__(self) -> None:
    super().__init__(deepcopy_host_arrays=False)
    self._context = tensorstore.Context(
      {
        "file_io_concurrency": {"limit": _PIECES},
        "data_copy_concurrency": {"limit": _PIECES},
        "cache_pool#ocdbt": {"total_bytes_limit": _BUFFER},  # orbax names it
      }
    )

  async def serialize(
    self, values: Sequence[Any], infos: Sequence[Any], args: Any = None
  ) -> list[Any]:
    """Starts to write."""
    serialize = super().serialize
    args = args or [ocp.SaveArgs()] * len(values)

    def write() -> None:
      for value, info, arg in zip(values, infos, args):
        info.ts_context = self._context
        for future in asyncio.run(serialize([value], [info], [arg])):
          future.result()

    # In a thread of its own: the loop that runs this makes the folders.
    with_thread = concurrent.futures.ThreadPoolExecutor(1)
    future = with_thread.submit(write)
    with_thread.shutdown(wait=False)
    return [future]

  async def deserialize(
    self, infos: Sequence[Any], args: Any = None
  ) -> list[Any]:
    """Reads."""
    args = args or [ocp.RestoreArgs()] * len(infos)
    arrays: list[Any] = []
    for info, arg in zip(infos, args):
      info.ts_context = self._context
      arrays += await super().deserialize([info], [arg])
    return arrays

  async def metadata(self, infos: Sequence[Any]) -> list[Any]:
    """Reads shapes and dtypes; after a failure nothing is left in flight."""
    found: list[Any] = []
    for info in infos:
      found += await super().metadata([info])
    return found
