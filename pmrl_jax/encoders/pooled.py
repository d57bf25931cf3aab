"""An encoder of tokens as an encoder of one vector."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp


class PooledEncoder(nn.Module):
  """Makes one vector of the tokens that an encoder returns.

  So `Bert`, `Beats`, `EvaVisionTransformer` and others of their kind can take
  part in a `MultimodalEncoder`.

  Attributes:
    encoder: Returns `[batch, tokens, width]`. Of a text (integers `[batch,
      length]`) it is told with `where=` what is no padding.
    pooling: The first token ("class"), or the mean of all tokens, of a text of
      those that are no padding ("mean").
    has_clips: Whether inputs are `[batch, clip, ...]`, as the frames of a
      video; the vector is the mean over them.
  """

  encoder: nn.Module
  pooling: Literal["class", "mean"] = "class"
  has_clips: bool = False

  @nn.compact
  def __call__(self, inputs: jax.Array, *, train: bool) -> jax.Array:
    """Encodes a batch.

    Args:
      inputs: `[batch, ...]`, what the encoder takes, or with an axis of clips
        after the first.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the pooling is unknown, or there is no axis of clips.
    """
    if self.pooling not in ("class", "mean"):
      raise ValueError(
        f"pooling must be 'class' or 'mean', got {self.pooling!r}"
      )
    if self.has_clips:
      if inputs.ndim < 3:
        raise ValueError(
          f"inputs must be [batch, clip, ...], got shape {inputs.shape}; set "
          "has_clips=False for inputs without clips"
        )
      batch, clips = inputs.shape[:2]
      vectors = self._vectors(inputs.reshape(-1, *inputs.shape[2:]), train)
      return jnp.mean(vectors.reshape(batch, clips, -1), axis=1)
    return self._vectors(inputs, train)

  def _vectors(self, inputs: jax.Array, train: bool) -> jax.Array:
    """`[batch, width]` of inputs without clips."""
    if not jnp.issubdtype(inputs.dtype, jnp.integer):
      tokens = self.encoder(inputs, train=train)
      return tokens[:, 0] if self.pooling == "class" else tokens.mean(axis=1)
    # The first place can always be seen, so that an absent text, all padding,
    # is read as something finite.
    first = jnp.arange(inputs.shape[1]) == 0
    where = (inputs > 0) | jnp.broadcast_to(first, inputs.shape)
    tokens = self.encoder(inputs, where=where, train=train)
    if self.pooling == "class":
      return tokens[:, 0]
    weights = where[..., None].astype(tokens.dtype)
    return jnp.sum(tokens * weights, axis=1) / jnp.sum(weights, axis=1)
