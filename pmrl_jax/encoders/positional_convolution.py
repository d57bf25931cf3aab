"""A wide convolution that tells tokens where they are.

Reference: Baevski et al., wav2vec 2.0, arXiv 2006.11477; Salimans and Kingma,
Weight Normalization, arXiv 1602.07868.
"""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu


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
    y = jax.lax.platform_dependent(
      x,
      kernel.astype(self.dtype),
      # There XLA has plain loops for the gradient of grouped convolutions.
      cpu=functools.partial(_by_fourier, groups=self.groups),
      default=functools.partial(_directly, groups=self.groups),
    )
    y = y + bias.astype(self.dtype)[None, None]
    return gelu(y)


def _directly(x: jax.Array, kernel: jax.Array, *, groups: int) -> jax.Array:
  """`[batch, tokens, width]` by a kernel `[tap, width / groups, width]`."""
  taps = kernel.shape[0]
  # An even kernel reaches one token further back than ahead.
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    window_strides=(1,),
    padding=[(taps // 2, (taps - 1) // 2)],
    dimension_numbers=("NWC", "WIO", "NWC"),
    feature_group_count=groups,
  )


def _by_fourier(x: jax.Array, kernel: jax.Array, *, groups: int) -> jax.Array:
  """The same, by products of Fourier transforms over the tokens.

  These are products with matrices, too: XLA's own transform can wait for ever
  on a CPU for an eigendecomposition that runs beside it, such as that of the
  loss.
  """
  tokens = x.shape[1]
  taps, inner, width = kernel.shape
  # So long that what leaves on one side does not enter on the other.
  length = tokens + taps
  cosine, sine = _waves(length)
  transform = functools.partial(jnp.einsum, "ft,btc->bfc", precision="highest")
  back = functools.partial(jnp.einsum, "ft,bfc->btc", precision="highest")
  mix = functools.partial(jnp.einsum, "bfgi,figo->bfgo", precision="highest")

  signal = x.astype(jnp.float32)
  response = kernel[::-1].astype(jnp.float32).reshape(1, taps, -1)
  parts = []
  for wave in (cosine, -sine):  # real and imaginary
    parts += [
      transform(wave[:, :tokens], signal).reshape(
        x.shape[0], -1, groups, inner
      ),
      transform(wave[:, :taps], response).reshape(
        -1, inner, groups, width // groups
      ),
    ]
  signal_re, response_re, signal_im, response_im = parts
  y_re = mix(signal_re, response_re) - mix(signal_im, response_im)
  y_im = mix(signal_re, response_im) + mix(signal_im, response_re)

  # Every frequency stands for its negative as well, but for the two that are
  # their own negatives.
  weight = np.full((len(cosine), 1), 2 / length, np.float32)
  weight[0] /= 2
  if length % 2 == 0:
    weight[-1] /= 2
  first = (taps - 1) // 2
  wanted = slice(first, first + tokens)
  flat = (x.shape[0], -1, width)
  y = back((weight * cosine)[:, wanted], y_re.reshape(flat))
  y = y - back((weight * sine)[:, wanted], y_im.reshape(flat))
  return y.astype(x.dtype)


def _waves(length: int) -> tuple[np.ndarray, np.ndarray]:
  """Cosines and sines, float32 `[frequency, time]` each."""
  turns = np.outer(np.arange(length // 2 + 1), np.arange(length)) % length
  angles = 2 * np.pi * turns / length
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _tap_norms(v: jax.Array) -> jax.Array:
  """Euclidean norms `[tap, 1, 1]` of `[tap, in, out]`, in float32."""
  square = jnp.square(v.astype(jnp.float32)).sum(axis=(1, 2), keepdims=True)
  return jnp.sqrt(square)
