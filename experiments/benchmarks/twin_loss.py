"""What the modules of the twin compute, up to the loss."""

import functools
from collections.abc import Callable
from typing import Any

from experiments.benchmarks.steps import SIZES, StepCase
from experiments.benchmarks.twin_towers import (
  gradient_scaler,
  hear,
  read,
  see,
)
from pmrl_jax.losses import PUBLISHED

_DROPOUT, _DROP_PATH = 0.1, 0.4
_MATCHING_WEIGHT = 0.1


def make_loss(
  twin: Any, case: StepCase, draw: Callable[[Any], Any] | None = None
) -> Callable[[dict[str, Any]], Any]:
  """The loss of a batch, `[]`.

  Args:
    twin: Of `twin_modules`.
    case: Its case.
    draw: Draws the negatives `[batch]` from their weights `[batch, batch]`,
      which are 0 for an instance's own partner. Default: one each, at random.
  """
  import torch  # type: ignore[import-not-found,unused-ignore]

  draw = draw or (lambda weights: torch.multinomial(weights, 1)[:, 0])
  size = SIZES[case.size]
  scale_gradient = gradient_scaler()
  dropout = _DROPOUT if case.dropout else 0.0
  read_texts = functools.partial(
    read,
    twin.multimodal_encoder.bert,
    num_heads=size.text.num_heads,
    dropout=dropout,
  )

  def loss(batch: dict[str, Any]) -> Any:
    vision = see(
      twin.vision_encoder.visual,
      batch["vision"].flatten(0, 1),
      num_heads=size.vision.num_heads,
      drop_path=_DROP_PATH if case.dropout else 0.0,
    ).unflatten(0, (-1, size.num_frames))
    audio = hear(
      twin.audio_encoder,
      batch["audio"].flatten(0, 1),
      num_heads=size.audio.num_heads,
      scale_gradient=scale_gradient,
    ).unflatten(0, (-1, 1))
    text, subtitle = read_texts(batch["text"]), read_texts(batch["subtitle"])
    pooled = {
      "t": text[:, 0],
      "v": vision[:, :, 0].mean(1),
      "a": audio.mean(2).mean(1),
      "s": subtitle[:, 0],
    }
    units = {
      letter: _unit(getattr(twin, f"contra_head_{letter}").linear(x))
      for letter, x in pooled.items()
    }
    condition = _condition(twin, vision, audio, subtitle)
    logits = _match(
      twin,
      read_texts,
      batch["text"],
      condition,
      *_negatives(twin, units, pooled, draw),
    )
    matched = torch.zeros(len(logits), dtype=torch.long)
    matched[: len(text)] = 1
    matching = torch.nn.functional.cross_entropy(logits, matched)
    return _spectral(torch.stack(list(units.values()), 2)) + (
      _MATCHING_WEIGHT * matching
    )

  return loss


def next_one(weights: Any) -> Any:
  """Takes the next instance for a negative, as `twin.following` does."""
  import torch

  return torch.roll(torch.arange(len(weights)), -1)


def _spectral(columns: Any) -> Any:
  """The alignment and the instance term of `[batch, dim, modality]`."""
  import torch

  vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
  logits = values / PUBLISHED["alignment_temperature"]
  alignment = -torch.log_softmax(logits, -1)[:, 0].mean()
  u = vectors[:, :, 0]
  projections = torch.einsum("bdn,bd->b", columns, u)
  u = torch.where(projections[:, None] < 0, -u, u)
  instance = torch.nn.functional.cross_entropy(
    u @ u.T / PUBLISHED["instance_temperature"], torch.arange(len(u))
  )
  return alignment + instance


def _negatives(
  twin: Any,
  units: dict[str, Any],
  pooled: dict[str, Any],
  draw: Callable[[Any], Any],
) -> tuple[Any, Any]:
  """Another condition and another text for each instance."""
  import torch

  with torch.no_grad():
    joined = torch.cat([pooled[letter] for letter in "vas"], -1)
    joint = _unit(twin.contra_head_vas(joined))
    similarities = units["t"] @ joint.T / twin.contra_temp
    return tuple(
      draw((torch.softmax(s, 1) + 1e-4).fill_diagonal_(0.0))
      for s in (similarities, similarities.T)
    )


def _condition(twin: Any, vision: Any, audio: Any, subtitle: Any) -> Any:
  """What texts are matched with, `[batch, tokens, width]`."""
  import torch

  parts = []
  for name, tokens in (("vision", vision), ("audio", audio)):
    x = getattr(twin, f"hidden_trans_{name}_multimodal")(tokens)
    x = x + getattr(twin, f"{name}_frame_embedding")[:, :, None]
    parts.append(x.flatten(1, 2) + getattr(twin, f"{name}_type_embeddings"))
  x = twin.hidden_trans_subtitle_multimodal(subtitle)
  parts.append(x + twin.subtitle_type_embeddings)
  return torch.cat(parts, 1)


def _match(
  twin: Any,
  read_texts: Callable[..., Any],
  ids: Any,
  condition: Any,
  other_condition: Any,
  other_text: Any,
) -> Any:
  """Logits `[3 batch, 2]`: own, with another condition, with another text."""
  import torch

  hidden = read_texts(
    torch.cat([ids, ids, ids[other_text]]),
    torch.cat([condition, condition[other_condition], condition]),
  )
  head = twin.itm_head
  x = torch.nn.functional.gelu(head.linear1(hidden[:, 0]))
  return head.linear2(head.layernorm(x))


def _unit(x: Any) -> Any:
  import torch

  return torch.nn.functional.normalize(x, dim=-1)
