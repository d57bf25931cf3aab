"""Any dictionary of encoders, joined in one embedding space."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.dense import Dense


class MultimodalEncoder(nn.Module):
  """One encoder and one linear projection head per modality.

  The embeddings are stacked in the order of `encoders` and are not
  normalised: the losses and the metrics do that. The heads have no bias,
  since a bias alone can already align every pair of modalities.

  Attributes:
    encoders: `{modality: module}`; a module is called as
      `module(inputs, train=...)` and returns `[batch, width]`, any width.
    dim: Dimension of the joint space.
    dtype: Computation dtype of the heads.
    param_dtype: Parameter dtype of the heads.
  """

  encoders: Mapping[str, nn.Module]
  dim: int
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    where: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """Embeds a batch.

    Args:
      inputs: `{modality: [batch, ...]}`, one entry for every encoder. The
        content of an absent modality must be finite (zeros, say); it does not
        influence the other embeddings.
      where: Optional bool `[batch, modality]`, in the order of `encoders`:
        which modalities are present. All of them, if not given.
      train: Whether dropout and masking are on.

    Returns:
      Embeddings float32 `[batch, modality, dim]`, zero where a modality is
      absent, and the presence mask bool `[batch, modality]`.

    Raises:
      ValueError: If a modality has an encoder and no input, or the reverse,
        or if the mask has another shape.
    """
    if missing := sorted(set(self.encoders) - set(inputs)):
      raise ValueError(
        f"no input for the modalities {missing}: the batch has "
        f"{sorted(inputs)}. Pass zeros and mark them absent in `where`, or "
        "build the model without their encoders"
      )
    if unknown := sorted(set(inputs) - set(self.encoders)):
      raise ValueError(
        f"no encoder for the modalities {unknown}: the model has encoders for "
        f"{sorted(self.encoders)}. Add an encoder or drop the input"
      )
    embeddings = []
    for modality, encoder in self.encoders.items():
      features = encoder(inputs[modality], train=train)
      head = Dense(
        self.dim,
        use_bias=False,
        dtype=self.dtype,
        param_dtype=self.param_dtype,
        name=f"head_{modality}",
      )
      embeddings.append(head(features).astype(jnp.float32))
    stacked = jnp.stack(embeddings, axis=1)
    expected = stacked.shape[:2]
    if where is None:
      where = jnp.ones(expected, bool)
    if where.shape != expected:
      raise ValueError(
        f"where must be [batch, modality] = {list(expected)}, got "
        f"{list(where.shape)}"
      )
    return jnp.where(where[..., None], stacked, 0.0), where
