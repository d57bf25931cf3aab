"""How PyTorch's layers start when nobody says otherwise.

Linear layers and convolutions draw weights and biases evenly from plus and
minus the inverse square root of the number of inputs of one output.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from jax.typing import DTypeLike

# A variance of 1 / (3 fan_in) is that of the interval described above.
torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def torch_bias(fan_in: int) -> nn.initializers.Initializer:
  """The initialiser of biases.

  Args:
    fan_in: The number of inputs of one output: of a convolution its channels
      times its kernel's positions.
  """
  bound = 1 / math.sqrt(fan_in)

  def init(
    key: jax.Array, shape: Sequence[int], dtype: DTypeLike = float, **_: Any
  ) -> jax.Array:
    return jax.random.uniform(key, shape, dtype, -bound, bound)

  return init
