"""Rotary positions of patches: queries and keys turned by where they are.

The first half of a head's width is turned by the row of the patch, the other
half by its column; of each half, neighbouring channels are a pair. A class
token, which is nowhere, is not turned.

Reference: Su et al., RoFormer, arXiv 2104.09864; on images Fang et al.,
EVA-02, arXiv 2303.11331.
"""

import jax
import jax.numpy as jnp
import numpy as np

_BASE = 10000.0


def rotary_table(
  grid: tuple[int, int], trained_side: int, head_width: int
) -> tuple[np.ndarray, np.ndarray]:
  """The turns of all patches.

  Args:
    grid: Rows and columns of patches.
    trained_side: Rows and columns of the grid of the pre-training: other
      grids are stretched over the same range of angles.
    head_width: Width of a head; a multiple of 4.

  Returns:
    Cosines and sines, float32 `[rows * columns, head_width]`.

  Raises:
    ValueError: If the width of a head is no multiple of 4.
  """
  if head_width % 4:
    raise ValueError(
      "rotary positions need heads whose width is a multiple of 4 (pairs of "
      f"channels for rows and columns), got {head_width}; change num_heads"
    )
  pairs = head_width // 4
  speeds = _BASE ** -(np.arange(pairs) / pairs)
  rows, columns = (
    (np.arange(size) / size * trained_side)[:, None] * speeds for size in grid
  )
  shape = (*grid, pairs)
  angles = np.concatenate(
    [
      np.broadcast_to(rows[:, None], shape),
      np.broadcast_to(columns[None], shape),
    ],
    axis=-1,
  )
  angles = angles.reshape(-1, 2 * pairs).repeat(2, axis=-1)
  return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: jax.Array, turns: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Turns the queries or the keys.

  Args:
    x: `[batch, tokens, head, head width]`.
    turns: Cosines and sines, `[batch or 1, tokens, head width]`.

  Returns:
    As `x`; computed in float32.
  """
  cosines, sines = (turn[:, :, None] for turn in turns)
  wide = x.astype(jnp.float32)
  pairs = wide.reshape(*x.shape[:-1], -1, 2)
  quarter = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1)
  turned = wide * cosines + quarter.reshape(x.shape) * sines
  return turned.astype(x.dtype)
