"""A table says which tensor of a checkpoint is which parameter.

A table is a list of lines, and serves both directions: what is read with it
and written again is the same, tensor by tensor. Most lines are entries; what
else a checkpoint may hold is a constant or known to be unused.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import numpy as np

# Stands in a key for the number of the layer. The parameter of such an entry
# has all layers along its first axis.
LAYER = "{layer}"


class Layout(NamedTuple):
  """How the axes of one tensor lie in the two worlds."""

  to_flax: Callable[[np.ndarray], np.ndarray]
  to_torch: Callable[[np.ndarray], np.ndarray]


def _permuted(*axes: int) -> Layout:
  back = tuple(int(axis) for axis in np.argsort(axes))
  return Layout(
    lambda tensor: tensor.transpose(axes), lambda array: array.transpose(back)
  )


SAME = Layout(lambda tensor: tensor, lambda array: array)
LINEAR = _permuted(1, 0)  # [out, in] -> [in, out]
CONV_1D = _permuted(2, 1, 0)  # [out, in, time] -> [time, in, out]
CONV_2D = _permuted(2, 3, 1, 0)  # [out, in, h, w] -> [h, w, in, out]


class Entry(NamedTuple):
  """One line of a table.

  Attributes:
    key: Of the tensor in the PyTorch state dict; `{layer}` for all layers.
    path: Of the parameter in the Flax tree, its parts joined by "/".
    layout: How the axes are permuted.
    depth: The number of layers, where the key has `{layer}`.
    repeated: Whether the layers (of a key with `{layer}`) hold copies of one
      and the same tensor. The parameter then has no layer axis.
    copies: Further keys under which the tensor is found again.
  """

  key: str
  path: str
  layout: Layout = SAME
  depth: int = 0
  repeated: bool = False
  copies: tuple[str, ...] = ()


class Constant(NamedTuple):
  """A tensor that the architecture fixes: a buffer, no parameter.

  It is written to a state dict. In one that is read it may be absent, and if
  it is there, it has to have this value.

  Attributes:
    key: Of the tensor.
    value: Its value.
    checked: Whether it has to have this value. What was rounded, or fits
      another size of input, is only passed over.
  """

  key: str
  value: np.ndarray
  checked: bool = True


class Unused(NamedTuple):
  """Keys that checkpoints have and the model has no parameters for.

  They are neither read nor written, and reported apart from keys that nobody
  expected.

  Attributes:
    key: Of one tensor, or of many: `*` stands for any characters, dots too.
  """

  key: str


Line = Entry | Constant | Unused
_Line = TypeVar("_Line", bound=Line)


def prefixed(
  table: Iterable[_Line], *, key: str = "", path: str = ""
) -> list[_Line]:
  """Returns a table whose keys and paths lie below others.

  Args:
    table: Of an encoder on its own.
    key: Set before every key, with its dot: "audio_encoder.".
    path: Set before every path, with its slash: "encoders_audio/".
  """

  def below(line: Any) -> Any:
    line = line._replace(key=key + line.key)
    if not isinstance(line, Entry):
      return line
    copies = tuple(key + copy for copy in line.copies)
    return line._replace(path=path + line.path, copies=copies)

  return [below(line) for line in table]


def stacked(table: Iterable[Entry], depth: int) -> list[Entry]:
  """Returns the entries of a block as those of `depth` blocks."""
  return [entry._replace(depth=depth) for entry in table]


def dense(key: str, path: str, *, bias: bool = True) -> list[Entry]:
  """The entries of a linear layer."""
  weight = [Entry(f"{key}.weight", f"{path}/kernel", LINEAR)]
  return weight + ([Entry(f"{key}.bias", f"{path}/bias")] if bias else [])


def layer_norm(key: str, path: str) -> list[Entry]:
  """The entries of a LayerNorm."""
  return [
    Entry(f"{key}.weight", f"{path}/scale"),
    Entry(f"{key}.bias", f"{path}/bias"),
  ]


def conv_2d(key: str, path: str, *, bias: bool = True) -> list[Entry]:
  """The entries of a convolution of images."""
  weight = [Entry(f"{key}.weight", f"{path}/kernel", CONV_2D)]
  return weight + ([Entry(f"{key}.bias", f"{path}/bias")] if bias else [])
