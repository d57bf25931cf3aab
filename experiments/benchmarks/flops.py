"""How many operations a training step takes, counted by hand and by XLA."""

import jax

from experiments.benchmarks.steps import (
  AUDIO_PATCH,
  PATCH,
  SIZES,
  StepCase,
  Tower,
  build_model,
  make_step,
)
from pmrl_jax.training.throughput import Peak as Peak
from pmrl_jax.training.throughput import peak as peak

_CONVOLUTION, _GROUPS = 128, 16  # taps of BEATs' positions, groups of channels
# A multiplication and an addition for each weight and token, on the way there
# and twice on the way back; once, where the input has no gradient.
_TRAINED, _FIRST, _FORWARD = 6, 4, 2


def by_hand(case: StepCase) -> dict[str, float]:
  """Operations of the matrix products of a step, by part of the model.

  A matrix with P weights that sees T tokens takes 6 P T: 2 P T forward, 4 P T
  backward. Attention of Q queries to K keys takes 12 Q K width: 4 forward (the
  products with keys and values), 8 backward. What is computed again to save
  memory does not count, nor do look-ups, norms, activations and AdamW.

  Args:
    case: The case.
  """
  size, b = SIZES[case.size], case.batch
  frames, patches = b * size.num_frames, size.vision_tokens() - 1
  seen, heard = size.vision_tokens(), size.audio_tokens()
  condition = size.num_frames * seen + heard + size.subtitle_length
  widths = (size.vision.width, size.audio.width, size.text.width)
  text, (v, a, s) = size.text.width, widths
  patch_weights = AUDIO_PATCH**2 * size.patch_width
  audio_weights = size.patch_width * a + _CONVOLUTION * (a // _GROUPS) * a
  return {
    "vision": (
      _FIRST * frames * patches * 3 * PATCH**2 * v
      + _tower(size.vision, frames, seen)
    ),
    "audio": (
      _FIRST * b * heard * patch_weights
      + _TRAINED * b * heard * audio_weights
      + _tower(size.audio, b, heard)
    ),
    "text": sum(
      _tower(size.text, b, length)
      for length in (size.caption_length, size.subtitle_length)
    ),
    "matching": (
      _tower(size.text, 3 * b, size.caption_length)
      # Three texts read two conditions: two of them read the same one.
      + _cross_attention(
        size.text, (3 * b, size.caption_length), (2 * b, condition)
      )
      + _TRAINED * 3 * b * (text**2 + 2 * text)
    ),
    "heads": (
      _TRAINED * b * (text + v + a + s) * size.dim
      + _FORWARD * b * (v + a + s) * size.dim
      + _TRAINED
      * b
      * text
      * (size.num_frames * seen * v + heard * a + size.subtitle_length * s)
    ),
  }


def _tower(tower: Tower, sequences: int, length: int) -> int:
  """Blocks of self-attention and MLP."""
  w, tokens = tower.width, sequences * length
  weights = 4 * w * w + 2 * w * tower.mlp_width
  attention = 2 * _TRAINED * tokens * length * w
  return tower.depth * (_TRAINED * weights * tokens + attention)


def _cross_attention(
  tower: Tower, texts: tuple[int, int], conditions: tuple[int, int]
) -> int:
  """The cross-attention of all layers: half its weights see conditions.

  Args:
    tower: The text encoder.
    texts: How many, and how long; each reads one condition.
    conditions: How many, and how long.
  """
  w, (num_texts, length), (num, tokens) = tower.width, texts, conditions
  weights = _TRAINED * (num_texts * length + num * tokens) * 2 * w * w
  attention = 2 * _TRAINED * num_texts * length * tokens * w
  return tower.depth * (weights + attention)


def by_xla(case: StepCase) -> float:
  """Operations of a step as XLA counts them, the elementwise ones too.

  Of the program as it is written, with its layers unrolled, since XLA counts
  the body of a loop once. Nothing is compiled.

  Args:
    case: The case.

  Raises:
    RuntimeError: If XLA does not count for this platform.
  """
  step = make_step(case, build_model(case, scan_layers=False))
  analysis = step.lower().cost_analysis()
  if analysis is None:
    raise RuntimeError("the compiler tells nothing about operations")
  return analysis["flops"]


def parameters(case: StepCase) -> int:
  """How many parameters the model has."""
  shapes = jax.eval_shape(make_step(case).start).params
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))
