"""The published model: encoders, heads, conditions and matching.

Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning, arXiv
2507.17343, on the parts of Chen et al., VAST, arXiv 2305.18500: every modality
has an embedding, and becomes tokens that the text encoder can look at, so that
one can ask whether a text belongs to them, or let it write one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.published.modalities import (
  PUBLISHED_FUSIONS,
  PUBLISHED_MODALITIES,
  Encoded,
  Modality,
  check_description,
  columns_of,
  input_modalities,
  task_modalities,
)
from pmrl_jax.encoders.published.parts import (
  ConditionAdapter,
  Linear,
  MatchingHead,
)

Names = str | Iterable[str]


class PMRLModel(nn.Module):
  """Any modalities in one space, and a text encoder that looks at them.

  Everything follows from `modalities`: each has a head to the joint space and,
  unless it is told otherwise, an adapter to the conditions of the text
  encoder. A further one is one more entry here and one in `encoders`.

  An encoder is called as `encoder(inputs, train=...)` and returns tokens
  `[batch, tokens, width]`, or one vector `[batch, width]`, which counts as one
  token. The text encoder is called as `encoder(ids, where=..., condition=...,
  condition_where=..., train=...)`, returns `[batch, length, width]`, and has a
  method `logits(hidden)`.

  An absent modality has a zero embedding, is left out of the fused features
  (zeros in their place) and is not looked at. What is present is all looked
  at, padding of subtitles included, as published.

  Attributes:
    encoders: `{name: module}`.
    modalities: `{modality: Modality}`; the default is the published one.
    fusions: The sets of modalities that have a head of their own, for their
      joint feature. That of other sets is the mean of their unit embeddings.
    caption: The modality whose texts are matched; its encoder is the text
      encoder.
    dim: Dimension of the joint space. Published: 512.
    width: Width of the text encoder and of the conditions. Published: 768.
    dtype: Computation dtype of heads and adapters.
    param_dtype: Their parameter dtype.
  """

  encoders: Mapping[str, nn.Module]
  modalities: Mapping[str, Modality] = PUBLISHED_MODALITIES
  fusions: tuple[tuple[str, ...], ...] = PUBLISHED_FUSIONS
  caption: str = "text"
  dim: int = 512
  width: int = 768
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32

  def setup(self) -> None:
    """Makes the parts that the description asks for."""
    check_description(
      list(self.encoders), self.modalities, self.fusions, self.caption
    )
    dtypes: dict[str, Any] = {
      "dtype": self.dtype,
      "param_dtype": self.param_dtype,
    }
    self.heads = {
      name: Linear(self.dim, use_bias=False, **dtypes)
      for name in self.modalities
    }
    self.fused_heads = {
      "_".join(names): Linear(self.dim, **dtypes) for names in self.fusions
    }
    self.adapters = {
      name: ConditionAdapter(self.width, modality.num_clips, **dtypes)
      for name, modality in self.modalities.items()
      if modality.conditions
    }
    self.matching_head = MatchingHead(self.width, **dtypes)
    self.similarity_temperature = self.param(
      "temperature", nn.initializers.constant(0.07), (), self.param_dtype
    )

  def __call__(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    where: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, jax.Array]:
    """Embeds a batch, as `MultimodalEncoder` does.

    Args:
      inputs: As for `encode`; to initialise the model, of every modality.
      where: As for `encode`.
      train: Whether dropout is on.

    Returns:
      Embeddings float32 `[batch, modality, dim]`, not normalised and zero
      where a modality is absent, and the presence mask.

    Raises:
      ValueError: As `encode` does.
    """
    encoded = self.encode(inputs, where=where, train=train)
    if self.is_initializing():
      self._initialise(inputs, encoded)
    return encoded.embeddings, encoded.where

  def encode(
    self,
    inputs: Mapping[str, jax.Array],
    *,
    where: jax.Array | None = None,
    train: bool = False,
  ) -> Encoded:
    """Encodes a batch into all that the other methods need.

    Args:
      inputs: `{modality: [batch, ...]}`, at least one of the model's. Those
        that are missing are absent everywhere, and cost nothing.
      where: Optional bool `[batch, modality]`: which of the modalities in
        `inputs` are present, in the order of the model. The content of an
        absent one must be finite; it has no influence.
      train: Whether dropout is on.

    Returns:
      The encoded batch; `[batch, modality]` are those in `inputs`.

    Raises:
      ValueError: If an input has no modality, or a shape does not fit.
    """
    names = input_modalities(inputs, self.modalities)
    shape = (inputs[names[0]].shape[0], len(names))
    if where is not None and where.shape != shape:
      raise ValueError(
        f"where must be [batch, modality] = {list(shape)} for the modalities "
        f"{names}, got {list(where.shape)}"
      )
    pooled, conditions, embeddings = {}, {}, []
    for column, name in enumerate(names):
      tokens = self._tokens(name, inputs[name], train)
      pooled[name] = self._pool(name, tokens, inputs[name])
      if self.modalities[name].conditions:
        conditions[name] = self.adapters[name](tokens)
      if where is not None:
        pooled[name] = jnp.where(where[:, column, None], pooled[name], 0)
      embedding = self.heads[name](pooled[name])
      embeddings.append(embedding.astype(jnp.float32))
    return Encoded(
      embeddings=jnp.stack(embeddings, axis=1),
      where=jnp.ones(shape, bool) if where is None else where,
      pooled=pooled,
      conditions=conditions,
    )

  def feature(
    self, encoded: Encoded, names: Names
  ) -> tuple[jax.Array, jax.Array]:
    """The unit feature of one modality, or the joint one of several.

    Args:
      encoded: Of `encode`.
      names: Modalities, see `task_modalities`.

    Returns:
      float32 `[batch, dim]`, and bool `[batch]`: where any of the modalities
      is present. The feature is zero elsewhere.

    Raises:
      ValueError: If a modality is not in the batch.
    """
    names = self.task(names)
    columns = columns_of(names, encoded.pooled, self.modalities)
    where = encoded.where[:, columns]
    present = jnp.any(where, axis=1)
    head = "_".join(names)
    if head in self.fused_heads:
      joined = jnp.concatenate([encoded.pooled[name] for name in names], -1)
      feature = self.fused_heads[head](joined).astype(jnp.float32)
    else:
      embeddings = jnp.where(
        where[..., None], _unit(encoded.embeddings[:, columns]), 0
      )
      feature = jnp.sum(embeddings, axis=1)
    return jnp.where(present[:, None], _unit(feature), 0), present

  @nn.nowrap
  def condition(
    self, encoded: Encoded, names: Names
  ) -> tuple[jax.Array, jax.Array]:
    """The tokens of some modalities, for the text encoder to look at.

    Needs no parameters: may be called on the model itself.

    Args:
      encoded: Of `encode`.
      names: Modalities, see `task_modalities`; the captions are left out.

    Returns:
      `[batch, tokens, width]` in the order of the model, and bool
      `[batch, tokens]`: which of them are those of present modalities.

    Raises:
      ValueError: If a modality is not in the batch, or is no condition.
    """
    names = [name for name in self.task(names) if name != self.caption]
    columns = columns_of(names, encoded.pooled, self.modalities)
    if not names or set(names) - set(encoded.conditions):
      raise ValueError(
        f"a condition must be made of {sorted(encoded.conditions)}, got {names}"
      )
    tokens = [encoded.conditions[name] for name in names]
    where = [
      jnp.broadcast_to(encoded.where[:, column, None], each.shape[:2])
      for column, each in zip(columns, tokens)
    ]
    return jnp.concatenate(tokens, axis=1), jnp.concatenate(where, axis=1)

  def match(
    self,
    ids: jax.Array,
    condition: jax.Array,
    condition_where: jax.Array | None = None,
    *,
    reads: Sequence[int] = (0,),
    train: bool = False,
  ) -> jax.Array:
    """Asks whether texts belong to conditions.

    Args:
      ids: Integer `[batch, length]`, 0 for padding.
      condition: `[conditions, tokens, width]`, see `condition`.
      condition_where: Optional bool `[conditions, tokens]`.
      reads: Which conditions texts share, see `Bert`; by default each text has
        its own.
      train: Whether dropout is on.

    Returns:
      `[batch, 2]` logits of no and yes.
    """
    hidden = self._read(
      ids,
      condition=condition,
      condition_where=condition_where,
      reads=reads,
      train=train,
    )
    return self.matching_head(hidden[:, 0])

  def token_logits(
    self,
    ids: jax.Array,
    condition: jax.Array | None = None,
    condition_where: jax.Array | None = None,
    *,
    where: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """What could stand at each place of a text.

    Args:
      ids: Integer `[batch, length]`, 0 for padding.
      condition: Optional `[batch, tokens, width]`, see `condition`.
      condition_where: Optional bool `[batch, tokens]`.
      where: Optional bool `[batch, length]` or `[batch, query, key]`: which
        places can be seen. All but padding, if not given.
      train: Whether dropout is on.

    Returns:
      `[batch, length, vocabulary]` logits.
    """
    hidden = self._read(
      ids,
      where=where,
      condition=condition,
      condition_where=condition_where,
      train=train,
    )
    return self._text_encoder.logits(hidden)

  def temperature(self) -> jax.Array:
    """What similarities are divided by, a scalar that can be learned."""
    return self.similarity_temperature

  @nn.nowrap
  def task(self, names: Names) -> tuple[str, ...]:
    """`names` as modalities of this model, see `task_modalities`."""
    return task_modalities(names, self.modalities)

  @property
  def _text_encoder(self) -> Any:
    return self.encoders[self.modalities[self.caption].encoder]

  def _read(
    self, ids: jax.Array, *, where: jax.Array | None = None, **options: Any
  ) -> jax.Array:
    """Hidden states `[batch, length, width]` of the text encoder."""
    if where is None:
      # The first place can always be seen, so that an absent text, all
      # padding, is read as something finite.
      first = jnp.arange(ids.shape[1]) == 0
      where = (ids > 0) | jnp.broadcast_to(first, ids.shape)
    return self._text_encoder(ids, where=where, **options)

  def _tokens(self, name: str, inputs: jax.Array, train: bool) -> jax.Array:
    """`[batch, tokens, width]`, or `[batch, clip, tokens, width]`."""
    modality = self.modalities[name]
    if modality.encoder == self.modalities[self.caption].encoder:
      return self._read(inputs, train=train)
    encoder = self.encoders[modality.encoder]
    if modality.num_clips is None:
      tokens = encoder(inputs, train=train)
      return tokens[:, None] if tokens.ndim == 2 else tokens
    if inputs.ndim < 3:
      raise ValueError(
        f"{name} must be [batch, clip, ...], got shape {inputs.shape}; add an "
        "axis for the one clip, or set num_clips=None"
      )
    tokens = encoder(inputs.reshape(-1, *inputs.shape[2:]), train=train)
    tokens = tokens[:, None] if tokens.ndim == 2 else tokens
    return tokens.reshape(*inputs.shape[:2], *tokens.shape[1:])

  def _pool(self, name: str, tokens: jax.Array, inputs: jax.Array) -> jax.Array:
    """`[batch, width]`, the mean over clips."""
    modality = self.modalities[name]
    if modality.pooling == "class":
      pooled = tokens[..., 0, :]
    elif modality.encoder == self.modalities[self.caption].encoder:
      seen = (inputs > 0)[..., None].astype(tokens.dtype)
      count = jnp.maximum(jnp.sum(seen, axis=1), 1)
      return jnp.sum(tokens * seen, axis=1) / count
    else:
      pooled = jnp.mean(tokens, axis=-2)
    return pooled if modality.num_clips is None else jnp.mean(pooled, axis=1)

  def _initialise(
    self, inputs: Mapping[str, jax.Array], encoded: Encoded
  ) -> None:
    """Runs every part once."""
    if missing := sorted(set(self.modalities) - set(inputs)):
      raise ValueError(
        f"the model is initialised with inputs of every modality, got none of "
        f"{missing}; pass zeros, or leave them out of `modalities`"
      )
    for names in self.fusions:
      self.feature(encoded, names)
    ids = inputs[self.caption]
    conditions = [n for n, each in self.modalities.items() if each.conditions]
    if conditions:
      condition, where = self.condition(encoded, conditions)
      self.match(ids, condition, where)
      self.token_logits(ids, condition, where)


def _unit(x: jax.Array) -> jax.Array:
  """Divides by the length along the last axis; zero stays zero."""
  square = jnp.sum(x * x, axis=-1, keepdims=True)
  is_zero = square <= 1e-24
  return jnp.where(is_zero, 0, x / jnp.sqrt(jnp.where(is_zero, 1, square)))
