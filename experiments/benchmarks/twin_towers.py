"""What the towers of the twin in PyTorch compute."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pmrl_jax.encoders.relative_attention import relative_buckets

_GRADIENT_DECAY, _MAX_DISTANCE = 0.6, 800
_HIDDEN_SCORE = -10_000.0


def see(tower: Any, images: Any, *, num_heads: int, drop_path: float) -> Any:
  """Tokens of images `[batch, channel, height, width]`."""
  import torch

  F = torch.nn.functional
  x = tower.patch_embed.proj(images).flatten(2).transpose(1, 2)
  x = torch.cat([tower.cls_token.expand(len(x), -1, -1), x], 1)
  x = x + tower.pos_embed
  rates = np.linspace(0.0, drop_path, len(tower.blocks))
  for block, rate in zip(tower.blocks, rates.tolist()):
    attn = block.attn
    bias = torch.cat([attn.q_bias, torch.zeros_like(attn.q_bias), attn.v_bias])
    qkv = F.linear(block.norm1(x), attn.qkv.weight, bias)
    y = _attend(*qkv.chunk(3, -1), num_heads=num_heads)
    x = x + _dropped(attn.proj(y), rate)
    y = block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
    x = x + _dropped(y, rate)
  return tower.norm(x)


def hear(
  tower: Any,
  x: Any,
  *,
  num_heads: int,
  scale_gradient: Callable[[Any, float], Any],
) -> Any:
  """Tokens of spectrograms `[batch, time, mel]`."""
  import torch

  F = torch.nn.functional
  encoder = tower.encoder
  x = tower.patch_embedding(x[:, None]).flatten(2).transpose(1, 2)
  x = tower.post_extract_proj(tower.layer_norm(x))
  convolution = getattr(encoder.pos_conv, "0")
  v, g = convolution.weight_v, convolution.weight_g
  kernel = v * (g / v.norm(dim=(0, 1), keepdim=True))
  y = F.conv1d(
    x.transpose(1, 2),
    kernel,
    convolution.bias,
    padding=kernel.shape[2] // 2,
    groups=x.shape[2] // kernel.shape[1],
  )
  x = encoder.layer_norm(x + F.gelu(y[..., :-1]).transpose(1, 2))
  table = encoder.layers[0].self_attn.relative_attention_bias
  buckets = relative_buckets(x.shape[1], len(table.weight), _MAX_DISTANCE)
  bias = table(torch.from_numpy(buckets).long()).permute(2, 0, 1)[None]
  alpha = (2 * len(encoder.layers)) ** 0.25
  for layer in encoder.layers:
    x = scale_gradient(x, _GRADIENT_DECAY)
    y = _gated_attention(layer.self_attn, x, bias, num_heads=num_heads)
    x = layer.self_attn_layer_norm(alpha * x + y)
    y = layer.fc2(F.gelu(layer.fc1(x)))
    x = layer.final_layer_norm(alpha * x + y)
  return x


def _gated_attention(attn: Any, x: Any, bias: Any, *, num_heads: int) -> Any:
  query = attn.q_proj(x)
  gate = attn.grep_linear(query.unflatten(2, (num_heads, -1)).transpose(1, 2))
  gate = gate.unflatten(3, (2, 4)).sum(-1).sigmoid()
  a, b = gate[..., :1], gate[..., 1:]
  mask = (a * (b * attn.grep_a - 1) + 2) * bias
  y = _attend(
    query, attn.k_proj(x), attn.v_proj(x), num_heads=num_heads, mask=mask
  )
  return attn.out_proj(y)


def read(
  bert: Any,
  ids: Any,
  condition: Any = None,
  *,
  num_heads: int,
  dropout: float,
) -> Any:
  """Hidden states of texts `[batch, length]`."""
  import torch

  F = torch.nn.functional
  tables = bert.embeddings
  x = tables.word_embeddings(ids) + tables.token_type_embeddings.weight[0]
  x = x + tables.position_embeddings.weight[: ids.shape[1]]
  x = F.dropout(tables.LayerNorm(x), dropout)
  mask = torch.where(ids > 0, 0.0, _HIDDEN_SCORE)[:, None, None]

  def attention(parts: Any, x: Any, source: Any, mask: Any) -> Any:
    own = parts.self
    y = _attend(
      own.query(x),
      own.key(source),
      own.value(source),
      num_heads=num_heads,
      mask=mask,
      dropout=dropout,
    )
    y = F.dropout(parts.output.dense(y), dropout)
    return parts.output.LayerNorm(y + x)

  for layer in bert.encoder.layer:
    x = attention(layer.attention, x, x, mask)
    if condition is not None:
      x = attention(layer.crossattention, x, condition, None)
    y = layer.output.dense(F.gelu(layer.intermediate.dense(x)))
    x = layer.output.LayerNorm(F.dropout(y, dropout) + x)
  return x


def _attend(
  query: Any,
  key: Any,
  value: Any,
  *,
  num_heads: int,
  mask: Any = None,
  dropout: float = 0.0,
) -> Any:
  """Attention of `[batch, queries, width]` to `[batch, keys, width]`."""
  import torch

  query, key, value = (
    x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key, value)
  )
  y = torch.nn.functional.scaled_dot_product_attention(
    query, key, value, attn_mask=mask, dropout_p=dropout
  )
  return y.transpose(1, 2).flatten(2)


def _dropped(branch: Any, rate: float) -> Any:
  """A branch without that of some examples."""
  if not rate:
    return branch
  kept = branch.new_empty(len(branch), 1, 1).bernoulli_(1 - rate)
  return branch * (kept / (1 - rate))


def gradient_scaler() -> Callable[[Any, float], Any]:
  """Makes the identity whose gradient is multiplied by a number."""
  import torch

  class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any, scale: float) -> Any:
      ctx.scale = scale
      return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
      return gradient * ctx.scale, None

  return Scaled.apply
