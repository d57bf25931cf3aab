"""The modules of the twin in PyTorch, under the official names.

A holder has no computation of its own; that is in `twin`. PyTorch is imported
by functions only, since it need not be installed.
"""

from typing import Any

import numpy as np

from experiments.benchmarks.steps import AUDIO_PATCH, PATCH, Size, Tower

_AUDIO_KERNEL, _AUDIO_GROUPS = 128, 16
_NUM_BUCKETS, _MAX_LENGTH = 320, 512
_GATE_WIDTH = 8


def twin_modules(size: Size) -> Any:
  """All modules of the model; their state dict has the official keys."""
  nn = _torch().nn
  text, dim = size.text.width, size.dim
  widths = {"v": size.vision.width, "a": size.audio.width, "s": text}
  heads = {
    f"contra_head_{letter}": _holder(linear=nn.Linear(width, dim, bias=False))
    for letter, width in {"t": text, **widths}.items()
  }
  fused = {
    f"contra_head_{letters}": nn.Linear(sum(widths[i] for i in letters), dim)
    for letters in ("va", "vs", "vas")
  }
  names = {"v": "vision", "a": "audio", "s": "subtitle"}
  adapters: dict[str, Any] = {}
  for letter, name in names.items():
    adapters[f"hidden_trans_{name}_multimodal"] = nn.Sequential(
      nn.Linear(widths[letter], text), nn.LayerNorm(text, eps=1e-12)
    )
    adapters[f"{name}_type_embeddings"] = _parameter(1, 1, text)
  return _holder(
    vision_encoder=_holder(visual=_vision(size)),
    audio_encoder=_audio(size),
    multimodal_encoder=_text(size),
    **heads,
    **fused,
    **adapters,
    vision_frame_embedding=_parameter(1, 2, text),
    audio_frame_embedding=_parameter(1, 1, text),
    contra_temp=_parameter(),
    itm_head=_holder(
      linear1=nn.Linear(text, text),
      layernorm=nn.LayerNorm(text, eps=1e-12),
      linear2=nn.Linear(text, 2),
    ),
  )


def _vision(size: Size) -> Any:
  nn, tower = _torch().nn, size.vision
  width = tower.width

  def block() -> Any:
    return _holder(
      norm1=nn.LayerNorm(width, eps=1e-6),
      attn=_holder(
        qkv=nn.Linear(width, 3 * width, bias=False),
        q_bias=_parameter(width),
        v_bias=_parameter(width),
        proj=nn.Linear(width, width),
      ),
      norm2=nn.LayerNorm(width, eps=1e-6),
      mlp=_holder(
        fc1=nn.Linear(width, tower.mlp_width),
        fc2=nn.Linear(tower.mlp_width, width),
      ),
    )

  return _holder(
    cls_token=_parameter(1, 1, width),
    pos_embed=_parameter(1, size.vision_tokens(), width),
    patch_embed=_holder(proj=nn.Conv2d(3, width, PATCH, PATCH)),
    blocks=nn.ModuleList([block() for _ in range(tower.depth)]),
    norm=nn.LayerNorm(width, eps=1e-6),
  )


def _audio(size: Size) -> Any:
  nn, tower = _torch().nn, size.audio
  width, patch, heads = tower.width, size.patch_width, tower.num_heads
  table = nn.Embedding(_NUM_BUCKETS, heads)  # of all layers

  def layer() -> Any:
    projections = {
      f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")
    }
    return _holder(
      self_attn=_holder(
        **projections,
        grep_a=_parameter(1, heads, 1, 1),
        grep_linear=nn.Linear(width // heads, _GATE_WIDTH),
        relative_attention_bias=table,
      ),
      self_attn_layer_norm=nn.LayerNorm(width),
      fc1=nn.Linear(width, tower.mlp_width),
      fc2=nn.Linear(tower.mlp_width, width),
      final_layer_norm=nn.LayerNorm(width),
    )

  convolution = _holder(
    bias=_parameter(width),
    weight_g=_parameter(1, 1, _AUDIO_KERNEL),
    weight_v=_parameter(width, width // _AUDIO_GROUPS, _AUDIO_KERNEL),
  )
  return _holder(
    patch_embedding=nn.Conv2d(1, patch, AUDIO_PATCH, AUDIO_PATCH, bias=False),
    layer_norm=nn.LayerNorm(patch),
    post_extract_proj=nn.Linear(patch, width),
    encoder=_holder(
      pos_conv=_holder(**{"0": convolution}),
      layer_norm=nn.LayerNorm(width),
      layers=nn.ModuleList([layer() for _ in range(tower.depth)]),
    ),
  )


def _text(size: Size) -> Any:
  torch, tower = _torch(), size.text
  nn, width = torch.nn, tower.width
  words = nn.Embedding(size.vocabulary, width, padding_idx=0)
  embeddings = _holder(
    word_embeddings=words,
    position_embeddings=nn.Embedding(_MAX_LENGTH, width),
    token_type_embeddings=nn.Embedding(2, width),
    LayerNorm=_bert_norm(width),
  )
  positions = torch.from_numpy(np.arange(_MAX_LENGTH)[None])
  embeddings.register_buffer("position_ids", positions)
  decoder = nn.Linear(width, size.vocabulary)
  decoder.weight = words.weight
  return _holder(
    bert=_holder(
      embeddings=embeddings,
      encoder=_holder(
        layer=nn.ModuleList([_text_layer(tower) for _ in range(tower.depth)])
      ),
    ),
    cls=_holder(
      predictions=_holder(
        bias=decoder.bias,
        decoder=decoder,
        transform=_holder(
          dense=nn.Linear(width, width), LayerNorm=_bert_norm(width)
        ),
      )
    ),
  )


def _text_layer(tower: Tower) -> Any:
  nn, width = _torch().nn, tower.width

  def output(hidden: int) -> Any:
    return _holder(dense=nn.Linear(hidden, width), LayerNorm=_bert_norm(width))

  def attention() -> Any:
    projections = {
      name: nn.Linear(width, width) for name in ("query", "key", "value")
    }
    return _holder(**{"self": _holder(**projections)}, output=output(width))

  return _holder(
    attention=attention(),
    crossattention=attention(),
    intermediate=_holder(dense=nn.Linear(width, tower.mlp_width)),
    output=output(tower.mlp_width),
  )


def _bert_norm(width: int) -> Any:
  return _torch().nn.LayerNorm(width, eps=1e-12)


def _holder(**parts: Any) -> Any:
  """A module that holds others, and parameters."""
  holder = _torch().nn.Module()
  for name, part in parts.items():
    setattr(holder, name, part)
  return holder


def _parameter(*shape: int) -> Any:
  torch = _torch()
  return torch.nn.Parameter(torch.zeros(shape))


def _torch() -> Any:
  import torch  # type: ignore[import-not-found,unused-ignore]

  return torch
