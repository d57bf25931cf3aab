"""What the layers of the large encoders apply element by element."""

import functools
import math

import jax
import jax.numpy as jnp


# The backward pass keeps the input alone, which the layer before has anyway.
@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
  """The exact Gaussian error linear unit, `x (1 + erf(x / sqrt(2))) / 2`.

  As PyTorch computes it. `jax.nn.gelu(x, approximate=False)` goes by `erfc`,
  which says more where the result is tiny, and takes more than twice as long
  on a CPU.

  Reference: Hendrycks and Gimpel, Gaussian Error Linear Units, arXiv
  1606.08415.

  Args:
    x: Any shape, of a floating-point type.

  Returns:
    Shape and dtype of `x`, computed in float32 or better.
  """
  wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  y = wide * (0.5 + 0.5 * jax.lax.erf(wide * math.sqrt(0.5)))
  return y.astype(x.dtype)
