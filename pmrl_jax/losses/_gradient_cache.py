"""The gradient of a large batch from small ones.

A contrastive loss does not split over micro-batches: each instance needs all
others as negatives. But only the encoder is too large for the whole batch. So
embeddings are computed micro-batch by micro-batch, the loss takes all of them,
and the backward pass encodes each micro-batch once more.

Gao, Zhang, Han, Callan, Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup, arXiv 2101.06983.
"""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def gradient_cache(
  encode: Callable[..., Any], *, micro_batch_size: int
) -> Callable[..., Any]:
  """Makes an encoder that holds the activations of one micro-batch only.

  The result is differentiated like the encoder itself, with any loss of its
  outputs, parameters of the loss included, and gives the same gradient up to
  rounding. It costs one more forward pass.

  Under `jax.jit` with a batch that is split over devices, each device encodes
  a share of every micro-batch, if `micro_batch_size` is a multiple of their
  number, and nothing is sent.

  Args:
    encode: `(params, batch) -> outputs` or `(params, batch, key) -> outputs`,
      where every leaf of batch and outputs is `[batch, ...]`, and the outputs
      of an instance depend on that instance alone (no batch statistics).
    micro_batch_size: how many instances are encoded at a time. Where it does
      not divide the batch, the last micro-batch is smaller.

  Returns:
    A function like `encode`. Of a `key` each micro-batch gets one of
    `jax.random.split(key, number of micro-batches)`, the same in both passes.
    Dropout is then as random as in one large batch, but not the same, unless
    every instance brings its own key in `batch`.

  Raises:
    TypeError: if `micro_batch_size` is no integer.
    ValueError: if it is not positive; or, when the result is called, if the
      leaves of the batch differ in their first axis.

  >>> import jax, jax.numpy as jnp
  >>> from pmrl_jax.losses import gradient_cache, pmrl_loss
  >>> def encode(params, batch):
  ...   return jnp.einsum("bnf,nfd->bnd", batch, params)
  >>> encode_by_8 = gradient_cache(encode, micro_batch_size=8)
  >>> params = jax.random.normal(jax.random.key(0), (3, 5, 16))
  >>> batch = jax.random.normal(jax.random.key(1), (32, 3, 5))
  >>> def loss(params):
  ...   return pmrl_loss(encode_by_8(params, batch)).loss
  >>> jax.jit(jax.grad(loss))(params).shape
  (3, 5, 16)
  """
  if isinstance(micro_batch_size, bool) or not isinstance(
    micro_batch_size, numbers.Integral
  ):
    raise TypeError(
      "`micro_batch_size` must be a positive integer, got "
      f"{micro_batch_size!r}."
    )
  size = int(micro_batch_size)
  if size < 1:
    raise ValueError(
      f"`micro_batch_size` must be a positive integer, got {size}; it is how "
      "many instances are encoded at a time."
    )

  def encode_all(params: Any, batch: Any, key: jax.Array | None = None) -> Any:
    num_full, rest = divmod(_batch_size(batch), size)
    keys = None
    if key is not None:
      keys = jax.random.split(key, num_full + bool(rest))

    # Of a micro-batch its inputs are kept, not its activations.
    @jax.checkpoint
    def encode_again(micro_batch: Any, key: jax.Array | None) -> Any:
      return encode(params, micro_batch, *([] if key is None else [key]))

    parts = []
    if num_full:
      stacked = jax.tree.map(lambda x: _deal(x, num_full, size), batch)
      first_keys = None if keys is None else keys[:num_full]
      outputs = jax.lax.map(
        lambda arguments: encode_again(*arguments), (stacked, first_keys)
      )
      parts.append(jax.tree.map(_collect, outputs))
    if rest:
      last = jax.tree.map(lambda x: x[num_full * size :], batch)
      parts.append(encode_again(last, None if keys is None else keys[-1]))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)

  return encode_all


def _batch_size(batch: Any) -> int:
  leaves = jax.tree.leaves(batch)
  sizes = {x.shape[0] if jnp.ndim(x) else None for x in leaves}
  if len(sizes) != 1 or sizes <= {None, 0}:
    raise ValueError(
      "every leaf of `batch` must be [batch, ...] with the same batch, at "
      f"least 1, got the shapes {[jnp.shape(x) for x in leaves]}; pass what "
      "is no array of the batch through `params`."
    )
  (size,) = sizes
  return int(size or 0)


def _deal(x: jax.Array, num_micro: int, size: int) -> jax.Array:
  """Returns `[micro-batch, instance, ...]`, dealt out like cards.

  Each micro-batch so gets instances from everywhere, hence from all devices.
  """
  x = x[: num_micro * size]
  return jnp.swapaxes(x.reshape(size, num_micro, *x.shape[1:]), 0, 1)


def _collect(x: jax.Array) -> jax.Array:
  """Undoes `_deal`."""
  return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
