"""Values for the parameters that a checkpoint does not have."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from pmrl_jax.weights.trees import flat

Init = Callable[[list[str]], Mapping[str, Any]]


def initial(
  init: Callable[[], Any],
) -> Init:
  """What fills parameters that a checkpoint does not have.

  Args:
    init: Makes all parameters, as `lambda: module.init(key, inputs)["params"]`.
      It is compiled, and only what is asked for is computed.

  Returns:
    The `init` of `to_params`.
  """

  def some(paths: list[str]) -> Mapping[str, Any]:
    arrays = jax.jit(lambda: {p: flat(init())[p] for p in paths})()
    return jax.tree.map(np.asarray, arrays)

  return some
