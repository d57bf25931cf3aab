"""Tables and trajectories: rows of numbers, and short sequences of points."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.dense import Dense
from pmrl_jax.encoders.transformer import TransformerEncoder


class TableEncoder(nn.Module):
  """A residual MLP for a row of features, standardised beforehand.

  Reference: the ResNet of Gorishniy et al., Revisiting Deep Learning Models
  for Tabular Data, arXiv 2106.11959, with LayerNorm in place of BatchNorm so
  that an instance's embedding does not depend on its batch.

  Attributes:
    width: Width of the residual stream.
    depth: Number of residual blocks.
    mlp_ratio: Hidden width of a block over the width.
    dropout_rate: Dropout on the residual branches.
    input_dropout_rate: Dropout on the features themselves.
    dtype: Computation dtype.
    param_dtype: Parameter dtype.
  """

  width: int
  depth: int
  mlp_ratio: float = 2.0
  dropout_rate: float = 0.0
  input_dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
    """Encodes rows of a table.

    Args:
      features: Float `[batch, feature]`.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the input is no batch of rows.
    """
    if features.ndim != 2:
      raise ValueError(
        f"TableEncoder expects rows [batch, feature], got shape "
        f"{features.shape}"
      )
    types: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    x = nn.Dropout(self.input_dropout_rate, deterministic=not train)(features)
    x = Dense(self.width, **types, name="input")(x)
    for block in range(self.depth):
      y = nn.LayerNorm(**types, name=f"norm_{block}")(x)
      hidden = int(self.width * self.mlp_ratio)
      y = nn.gelu(Dense(hidden, **types, name=f"mlp_in_{block}")(y))
      y = Dense(self.width, **types, name=f"mlp_out_{block}")(y)
      x = x + nn.Dropout(self.dropout_rate, deterministic=not train)(y)
    return nn.LayerNorm(**types, name="final_norm")(x)


class TrajectoryTransformer(TransformerEncoder):
  """A transformer over the points of a trajectory, one token a point.

  Its attributes are those of `TransformerEncoder`.
  """

  @nn.compact
  def __call__(self, points: jax.Array, *, train: bool) -> jax.Array:
    """Encodes trajectories.

    Args:
      points: Float `[batch, point, coordinate]`, about unit scale, resampled
        to the same number of points.
      train: Whether dropout is on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the input is no batch of trajectories.
    """
    if points.ndim != 3:
      raise ValueError(
        "TrajectoryTransformer expects points [batch, point, coordinate], got "
        f"shape {points.shape}"
      )
    # The step to the next point tells the direction of the pen, which a
    # single position does not.
    steps = jnp.diff(points, axis=1, append=points[:, -1:])
    tokens = self.project(
      jnp.concatenate([points, steps], axis=-1), name="point_embedding"
    )
    return self.encode(tokens, train=train)
