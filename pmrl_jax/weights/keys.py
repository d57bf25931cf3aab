"""Keys of checkpoints, as the published loaders change them."""

from collections.abc import Callable

import numpy as np

from pmrl_jax.weights.tensors import LazyTensor, Tensors, lazy

# Older names; the first that a key contains is replaced.
_RENAMED = (
  ("video", "vision"),
  ("evaclip_model", "vision_encoder"),
  ("clip_model", "vision_encoder"),
)


def published(tensors: Tensors) -> dict[str, LazyTensor]:
  """The keys of the whole model, from those of older checkpoints as well.

  What keeps its key becomes float32, what is renamed keeps its dtype, both as
  the published loader has it.

  Args:
    tensors: `{key: tensor}`.

  Returns:
    `{key: tensor}`; nothing is read.

  Raises:
    ValueError: If two keys become one.
  """

  def change(key: str, tensor: LazyTensor) -> tuple[str, LazyTensor]:
    key = key.replace("module.", "")
    for old, new in _RENAMED:
      if old in key:
        return key.replace(old, new), tensor
    return key, tensor.changed(
      lambda array: array.astype(np.float32), dtype=np.float32
    )

  return _changed(tensors, change)


def without_module(tensors: Tensors) -> dict[str, LazyTensor]:
  """The keys without the `module.` that data-parallel training sets before.

  Args:
    tensors: `{key: tensor}`.

  Returns:
    `{key: tensor}`; nothing is read.
  """
  return _changed(
    tensors, lambda key, tensor: (key.removeprefix("module."), tensor)
  )


def _changed(
  tensors: Tensors,
  change: Callable[[str, LazyTensor], tuple[str, LazyTensor]],
) -> dict[str, LazyTensor]:
  """Changes keys and tensors; no two keys may become one."""
  result: dict[str, LazyTensor] = {}
  before: dict[str, str] = {}
  for key, tensor in tensors.items():
    new, changed = change(key, lazy(tensor))
    if new in result:
      raise ValueError(f"{before[new]} and {key} are both read as {new}")
    result[new], before[new] = changed, key
  return result
