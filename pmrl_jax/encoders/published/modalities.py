"""What a modality is to the model, and how a task names some of them."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import jax
from flax.core import FrozenDict


@dataclasses.dataclass(frozen=True)
class Modality:
  """One line of the description of a model.

  Attributes:
    encoder: The name of the module that encodes it. Modalities may share one,
      as captions and subtitles do; those of the text encoder are token ids
      `[batch, length]`, 0 for padding.
    pooling: What stands for one clip: its first token ("class"), or the mean
      of its tokens.
    num_clips: The number of clips (frames of a video, pieces of a sound) that
      the model has embeddings for; inputs then are `[batch, clip, ...]`, with
      any number of clips. None: inputs have no such axis.
    conditions: Whether texts can be matched with it, by cross-attention. Not
      needed of the captions themselves.
  """

  encoder: str
  pooling: Literal["class", "mean"] = "class"
  num_clips: int | None = None
  conditions: bool = True

  def __post_init__(self) -> None:
    """Checks the fields."""
    if self.pooling not in ("class", "mean"):
      raise ValueError(
        f"pooling must be 'class' or 'mean', got {self.pooling!r}"
      )
    if self.num_clips is not None and self.num_clips < 1:
      raise ValueError(
        f"num_clips must be at least 1, got {self.num_clips}; None is for "
        "inputs without a clip axis"
      )


# The modalities of the published model, in its order. Frames and clips are
# those of its pre-training.
PUBLISHED_MODALITIES: Mapping[str, Modality] = FrozenDict(
  {
    "text": Modality("text", conditions=False),
    "vision": Modality("vision", num_clips=2),
    "audio": Modality("audio", "mean", num_clips=1),
    "subtitle": Modality("text"),
  }
)
# Sets of modalities with a feature of their own, each in the model's order of
# concatenation.
PUBLISHED_FUSIONS = (
  ("vision", "audio"),
  ("vision", "subtitle"),
  ("vision", "audio", "subtitle"),
)


class Encoded(NamedTuple):
  """What the encoders make of a batch; modalities in the model's order."""

  embeddings: jax.Array  # [batch, modality, dim] float32, not normalised
  where: jax.Array  # [batch, modality] bool, which are present
  pooled: dict[str, jax.Array]  # {modality: [batch, width]}
  conditions: dict[str, jax.Array]  # {modality: [batch, tokens, width]}


def task_modalities(
  task: str | Iterable[str], modalities: Iterable[str]
) -> tuple[str, ...]:
  """The modalities that a task names, in the order of the model.

  Args:
    task: Names, or a string of first letters, as published: "tvas" is text,
      vision, audio and subtitle.
    modalities: The names of all modalities of the model.

  Returns:
    Their names.

  Raises:
    ValueError: If one is unknown, named twice, or has not the only name with
      that letter.

  >>> from pmrl_jax.encoders import task_modalities
  >>> task_modalities("tsv", ["text", "vision", "audio", "subtitle"])
  ('text', 'vision', 'subtitle')
  """
  known = list(modalities)
  if isinstance(task, str):
    wanted = []
    for letter in task:
      fitting = [name for name in known if name.startswith(letter)]
      if len(fitting) != 1:
        raise ValueError(
          f"the letter {letter!r} of the task {task!r} must be the first of "
          f"one modality, and is of {fitting}; the model has {known}. Give a "
          "list of names instead"
        )
      wanted += fitting
  else:
    wanted = list(task)
    if unknown := [name for name in wanted if name not in known]:
      raise ValueError(
        f"the task {wanted} names the unknown modalities {unknown}; the model "
        f"has {known}"
      )
  if len(set(wanted)) != len(wanted) or not wanted:
    raise ValueError(
      f"a task must name one modality or more, each once, got {task!r}"
    )
  return tuple(name for name in known if name in wanted)


def input_modalities(
  inputs: Iterable[str], modalities: Mapping[str, Modality]
) -> list[str]:
  """The modalities of a batch, in the order of the model; checks them."""
  given = set(inputs)
  if unknown := sorted(given - set(modalities)):
    raise ValueError(
      f"the model has no modality for the inputs {unknown}; it has "
      f"{list(modalities)}. Describe them in `modalities`, or drop them"
    )
  if not given:
    raise ValueError(
      f"inputs must hold one modality or more of {list(modalities)}, got none"
    )
  return [name for name in modalities if name in given]


def columns_of(
  names: Iterable[str],
  inputs: Iterable[str],
  modalities: Mapping[str, Modality],
) -> list[int]:
  """Where modalities stand along the modality axis of a batch."""
  there = input_modalities(inputs, modalities)
  if missing := [name for name in names if name not in there]:
    raise ValueError(
      f"the batch holds {there}, and not {missing}, which the task names; add "
      "the inputs, or choose another task"
    )
  return [there.index(name) for name in names]


def check_description(
  encoders: Iterable[str],
  modalities: Mapping[str, Modality],
  fusions: Iterable[tuple[str, ...]],
  caption: str,
) -> None:
  """Checks that the parts of a description fit together."""
  used = {modality.encoder for modality in modalities.values()}
  if used != set(encoders):
    raise ValueError(
      "`encoders` must hold exactly the encoders that `modalities` name, "
      f"{sorted(used)}, got {sorted(encoders)}"
    )
  if caption not in modalities:
    raise ValueError(
      f"caption must be one of {list(modalities)}, got {caption!r}"
    )
  for names in fusions:
    if len(names) < 2 or task_modalities(names, modalities) != tuple(names):
      raise ValueError(
        "a fusion must name two modalities or more, in the order of "
        f"{list(modalities)}, got {list(names)}"
      )
