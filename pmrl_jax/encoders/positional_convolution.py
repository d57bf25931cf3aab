"""A wide convolution that tells tokens where they are.

Reference: Baevski et al., wav2vec 2.0, arXiv 2006.11477; Salimans and Kingma,
Weight Normalization, arXiv 1602.07868.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class PositionalConvolution(nn.Module):
  """Tells tokens where they are by a wide grouped convolution over them.

  The kernel is weight-normalised along its own axis: that of tap k is
  `g[k] v[k] / |v[k]|`, and `g` and `v` are the parameters.

  Attributes:
    kernel: Number of taps.
    groups: Groups of channels that do not mix.
    dtype: Computation dtype; the kernel is normalised in float32.
    param_dtype: Parameter dtype.
  """

  kernel: int
  groups: int
  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps `[batch, tokens, width]` to the same shape."""
    width = x.shape[-1]
    v = self.param(
      "v",
      nn.initializers.normal(math.sqrt(4 / (self.kernel * width))),
      (self.kernel, width // self.groups, width),
      self.param_dtype,
    )
    g = self.param("g", lambda _: _tap_norms(v).astype(self.param_dtype))
    bias = self.param("bias", nn.initializers.zeros, (width,), self.param_dtype)
    kernel = v.astype(jnp.float32) * (g.astype(jnp.float32) / _tap_norms(v))
    self.sow("intermediates", "kernel", kernel)
    # An even kernel reaches one token further back than ahead.
    y = jax.lax.conv_general_dilated(
      x,
      kernel.astype(self.dtype),
      window_strides=(1,),
      padding=[(self.kernel // 2, (self.kernel - 1) // 2)],
      dimension_numbers=("NWC", "WIO", "NWC"),
      feature_group_count=self.groups,
    )
    y = y + bias.astype(self.dtype)[None, None]
    return nn.gelu(y, approximate=False)


def _tap_norms(v: jax.Array) -> jax.Array:
  """Euclidean norms `[tap, 1, 1]` of `[tap, in, out]`, in float32."""
  square = jnp.square(v.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True)
  return jnp.sqrt(square)
