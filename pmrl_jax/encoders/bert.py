"""Text: BERT, which can also look at other modalities.

One network reads captions and subtitles on its own, and judges or writes a
caption with a condition (the tokens of other modalities) at its side, which
every layer attends to.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from pmrl_jax.encoders.activations import gelu
from pmrl_jax.encoders.attention import check_heads
from pmrl_jax.encoders.bert_layers import (
  INITIALIZER,
  BertLayer,
  dense,
  layer_norm,
  scores_bias,
)
from pmrl_jax.encoders.dropout import Dropout
from pmrl_jax.encoders.stack import apply_blocks


class Bert(nn.Module):
  """BERT-base with a cross-attention in every layer and a masked-word head.

  The fields' values are those of the published model: bert-base-uncased, with
  cross-attention to conditions of its own width.

  Reference: Devlin et al., BERT, arXiv 1810.04805; with conditions as in
  Chen et al., VAST, arXiv 2305.18500.

  Attributes:
    vocabulary_size: Number of token ids.
    width: Width of the tokens, and of a condition.
    depth: Number of layers.
    num_heads: Attention heads; must divide the width.
    mlp_width: Hidden width of the feed-forward part.
    max_length: Rows of the position table, the longest text.
    num_token_types: Rows of the token type table, of which only row 0 is
      used; the others are there for the checkpoint.
    cross_attention: Whether the layers can attend to a condition.
    dropout_rate: Dropout of embeddings and branches; random stream `dropout`.
    attention_dropout_rate: Dropout of the attention weights.
    padding_id: The id whose embedding learns nothing from being looked up.
    dtype: Computation dtype; LayerNorm statistics, the attention softmax and
      the logits are float32.
    param_dtype: Parameter dtype.
    remat: Key of `REMAT_POLICIES`.
    scan_layers: See `apply_blocks`.
  """

  vocabulary_size: int = 30522
  width: int = 768
  depth: int = 12
  num_heads: int = 12
  mlp_width: int = 3072
  max_length: int = 512
  num_token_types: int = 2
  cross_attention: bool = True
  dropout_rate: float = 0.1
  attention_dropout_rate: float = 0.1
  padding_id: int = 0
  dtype: DTypeLike = jnp.float32
  param_dtype: DTypeLike = jnp.float32
  remat: str = "none"
  scan_layers: bool = True

  def setup(self) -> None:
    """Makes what `__call__` and `logits` share."""
    self.word_embeddings = self.param(
      "word_embeddings",
      INITIALIZER,
      (self.vocabulary_size, self.width),
      self.param_dtype,
    )
    self.predictions = _Predictions(
      dtype=self.dtype, param_dtype=self.param_dtype
    )

  @nn.compact
  def __call__(
    self,
    ids: jax.Array,
    *,
    where: jax.Array | None = None,
    condition: jax.Array | None = None,
    condition_where: jax.Array | None = None,
    reads: Sequence[int] = (0,),
    train: bool,
  ) -> jax.Array:
    """Encodes texts.

    Args:
      ids: Integer `[batch, length]`.
      where: Bool `[batch, length]`, which tokens may be attended to, or
        `[batch, length, length]`, which the token of the first length may
        attend to; all of them, if not given.
      condition: Optional `[conditions, tokens, width]`; as many as texts, if
        `reads` is not given.
      condition_where: Bool `[conditions, tokens]`, which tokens of a condition
        may be attended to; all of them (as published), if not given.
      reads: Where texts share conditions, which are then looked at once:
        texts come in groups of `len(reads)`, conditions in as many groups, of
        `max(reads) + 1`, and text `i` of a group reads the condition
        `reads[i]` of it.
      train: Whether dropout is on.

    Returns:
      `[batch, length, width]` in `dtype`.

    Raises:
      TypeError: If the ids are no integers or a mask is not bool.
      ValueError: If a shape does not fit.
    """
    reads = tuple(reads)
    self._check(ids, where, condition, condition_where, reads)
    x = self._embed(ids, train=train)
    self.sow("intermediates", "hidden", x)
    if self.is_initializing():
      # All parameters exist, whatever the first call makes use of.
      self.logits(x)
      if self.cross_attention and condition is None:
        condition, reads = x, (0,)
    block = BertLayer(
      num_heads=self.num_heads,
      mlp_width=self.mlp_width,
      dropout_rate=self.dropout_rate,
      attention_dropout_rate=self.attention_dropout_rate,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      name="blocks",
    )
    if condition is not None:
      condition = condition.astype(self.dtype)
    return apply_blocks(
      block,
      x,
      depth=self.depth,
      remat=self.remat,
      scan_layers=self.scan_layers,
      bias=scores_bias(where),
      condition=condition,
      condition_bias=scores_bias(condition_where),
      reads=reads,
      train=train,
    )

  def logits(self, hidden: jax.Array) -> jax.Array:
    """Scores of every word at every token, by the tied embedding.

    Args:
      hidden: What `__call__` returns, `[..., width]`.

    Returns:
      float32 `[..., vocabulary]`.
    """
    return self.predictions(hidden, self.word_embeddings)

  def _embed(self, ids: jax.Array, *, train: bool) -> jax.Array:
    """Words, their positions and their (only) type."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    positions = self.param(
      "position_embeddings",
      INITIALIZER,
      (self.max_length, self.width),
      self.param_dtype,
    )
    token_types = self.param(
      "token_type_embeddings",
      INITIALIZER,
      (self.num_token_types, self.width),
      self.param_dtype,
    )
    words = jnp.take(self.word_embeddings, ids, axis=0)
    is_padding = (ids == self.padding_id)[..., None]
    words = jnp.where(is_padding, jax.lax.stop_gradient(words), words)
    x = words + (positions[: ids.shape[1]] + token_types[:1])[None]
    x = layer_norm("embedding_norm", types)(x)
    return Dropout(self.dropout_rate, deterministic=not train)(x)

  def _check(
    self,
    ids: jax.Array,
    where: jax.Array | None,
    condition: jax.Array | None,
    condition_where: jax.Array | None,
    reads: tuple[int, ...],
  ) -> None:
    """Raises what `__call__` documents."""
    check_heads(self.width, self.num_heads)
    if not jnp.issubdtype(ids.dtype, jnp.integer):
      raise TypeError(
        f"Bert expects integer token ids, got {ids.dtype}; encode the texts "
        "with a tokenizer"
      )
    if ids.ndim != 2:
      raise ValueError(
        f"Bert expects ids [batch, length], got shape {ids.shape}"
      )
    b, length = ids.shape
    if length > self.max_length:
      raise ValueError(
        f"a text may have up to {self.max_length} tokens, the rows of the "
        f"position table, got {length}; shorten the texts, or make the model "
        "with a larger max_length and train its positions"
      )
    _check_where("where", where, [(b, length), (b, length, length)])
    if condition is None:
      if condition_where is not None:
        raise ValueError("condition_where is given without a condition")
      return
    if not self.cross_attention:
      raise ValueError(
        "a condition is given, but the model has no cross-attention; make it "
        "with cross_attention=True"
      )
    num_conditions = _num_conditions(b, reads)
    tokens = condition.shape[1] if condition.ndim > 1 else 1
    if condition.shape != (num_conditions, tokens, self.width):
      raise ValueError(
        "condition must be [conditions, tokens, width] = "
        f"[{num_conditions}, any, {self.width}], got {list(condition.shape)}; "
        "project it to the width of the text, and give one for each text, or "
        "say by `reads` which texts share one"
      )
    _check_where("condition_where", condition_where, [condition.shape[:2]])


class _Predictions(nn.Module):
  """The head that guesses masked words."""

  dtype: DTypeLike
  param_dtype: DTypeLike

  @nn.compact
  def __call__(self, hidden: jax.Array, embeddings: jax.Array) -> jax.Array:
    """Returns float32 `[..., vocabulary]`; `embeddings` are the words'."""
    types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
    y = dense(hidden.shape[-1], "dense", types)(hidden)
    y = layer_norm("norm", types)(gelu(y))
    bias = self.param(
      "bias", nn.initializers.zeros, (len(embeddings),), self.param_dtype
    )
    scores = jnp.einsum(
      "...d,vd->...v",
      y,
      embeddings.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )
    return scores + bias.reshape((1,) * (hidden.ndim - 1) + (-1,))


def _num_conditions(num_texts: int, reads: tuple[int, ...]) -> int:
  """How many conditions so many texts read.

  Raises:
    ValueError: If the texts do not fall into groups, or a condition is skipped.
  """
  if not reads or set(reads) != set(range(max(reads) + 1)):
    raise ValueError(
      "reads must name the conditions 0, 1, … of a group, none left out, got "
      f"{list(reads)}"
    )
  if num_texts % len(reads):
    raise ValueError(
      f"the texts must come in groups of len(reads) = {len(reads)}, got "
      f"{num_texts} texts"
    )
  return num_texts // len(reads) * (max(reads) + 1)


def _check_where(
  name: str, where: jax.Array | None, shapes: list[tuple[int, ...]]
) -> None:
  if where is None:
    return
  if where.dtype != bool:
    raise TypeError(
      f"{name} must be bool, got {where.dtype}; compare the mask with 0"
    )
  if where.shape not in shapes:
    expected = " or ".join(str(list(shape)) for shape in shapes)
    raise ValueError(f"{name} must be {expected}, got {list(where.shape)}")
