"""A training step of the published model at a size, real or on shapes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks.cases import Contestant
from experiments.encoders import loops_over_layers
from pmrl_jax import training
from pmrl_jax.encoders import (
  Beats,
  Bert,
  EvaVisionTransformer,
  PMRLModel,
)
from pmrl_jax.losses import PUBLISHED, sample_hard_negatives

OURS = "pmrl_jax"
_FRUGAL, _IN_A_LOOP = "pmrl_jax, remat dots", "pmrl_jax, layers in a loop"
TASK = "tvas"  # captions matched with all three others
PATCH, AUDIO_PATCH, MELS = 14, 16, 64  # pixels, rows and bins
LEARNING_RATE = 1e-5
# So many that the rate hardly falls while it is measured.
_STEPS = 1_000_000


class Tower(NamedTuple):
  """The sizes of an encoder."""

  width: int
  depth: int
  num_heads: int
  mlp_width: int


class Size(NamedTuple):
  """The sizes of the model and of an example."""

  vision: Tower
  audio: Tower
  text: Tower
  patch_width: int  # of a patch of sound, before it is projected
  vocabulary: int
  dim: int
  num_frames: int
  image_size: int  # pixels
  audio_rows: int  # of a spectrogram
  caption_length: int
  subtitle_length: int

  def vision_tokens(self) -> int:
    """Tokens of a frame."""
    return 1 + (self.image_size // PATCH) ** 2

  def audio_tokens(self) -> int:
    """Tokens of a sound."""
    return (self.audio_rows // AUDIO_PATCH) * (MELS // AUDIO_PATCH)


_TINY, _BASE = Tower(32, 2, 4, 64), Tower(768, 12, 12, 3072)
_SMALL = Tower(256, 4, 4, 1024)
# As published, in pre-training; fine-tuning reads more frames.
_FULL = Size(
  Tower(1408, 40, 16, 6144),
  _BASE,
  _BASE,
  patch_width=512,
  vocabulary=30522,
  dim=512,
  num_frames=2,
  image_size=224,
  audio_rows=1024,
  caption_length=40,
  subtitle_length=70,
)
FULL, FINETUNED = "full", "finetuned"
SIZES: dict[str, Size] = {
  # For tests, and to try the program out.
  "tiny": Size(_TINY, _TINY, _TINY, 24, 100, 16, 2, 28, 64, 12, 8),
  # Minutes on two cores.
  "small": Size(
    Tower(384, 6, 6, 1536), _SMALL, _SMALL, 128, 8192, 256, 2, 112, 512, 40, 70
  ),
  FULL: _FULL,
  FINETUNED: _FULL._replace(num_frames=8),
}


class StepCase(NamedTuple):
  """What is stepped."""

  size: str  # of SIZES
  batch: int
  dtype: str  # of the computation
  dropout: bool  # dropout and stochastic depth, as published; or none

  def __str__(self) -> str:
    """For tables and progress bars."""
    dropout = "" if self.dropout else ", no dropout"
    return f"{self.size}, B={self.batch} {self.dtype}{dropout}"


def build_model(
  case: StepCase, *, remat: str = "none", scan_layers: bool | None = None
) -> PMRLModel:
  """The model of a case.

  No layer of BEATs is ever left out: PyTorch would save the time, and a
  compiled step does not.

  Args:
    case: The case.
    remat: What is computed again in the backward pass.
    scan_layers: Whether layers compile as a loop; None: as
      `experiments.train` has it.
  """
  size, dtype = SIZES[case.size], jnp.dtype(case.dtype)

  def common(tower: Tower) -> dict[str, Any]:
    scan = scan_layers
    if scan is None:
      scan = loops_over_layers(tower.depth, remat, jax.default_backend())
    options = {"dtype": dtype, "remat": remat, "scan_layers": scan}
    return {**tower._asdict(), **options}

  return PMRLModel(
    encoders={
      "text": Bert(
        **common(size.text),
        vocabulary_size=size.vocabulary,
        dropout_rate=0.1 if case.dropout else 0.0,
        attention_dropout_rate=0.1 if case.dropout else 0.0,
      ),
      "vision": EvaVisionTransformer(
        **common(size.vision),
        image_size=size.image_size,
        patch_size=PATCH,
        head_width=0,
        drop_path_rate=0.4 if case.dropout else 0.0,
      ),
      "audio": Beats(
        **common(size.audio),
        patch_size=AUDIO_PATCH,
        patch_width=size.patch_width,
        layerdrop_rate=0.0,
      ),
    },
    dim=size.dim,
    width=size.text.width,
    dtype=dtype,
  )


def inputs(case: StepCase) -> dict[str, np.ndarray]:
  """A random batch; texts are half full or more, then padding."""
  size, random = SIZES[case.size], np.random.default_rng(0)

  def texts(length: int) -> np.ndarray:
    ids = random.integers(1, size.vocabulary, (case.batch, length))
    lengths = random.integers(length // 2, length + 1, (case.batch, 1))
    return np.where(np.arange(length) < lengths, ids, 0).astype(np.int32)

  def numbers(*shape: int) -> np.ndarray:
    return random.standard_normal((case.batch, *shape), np.float32)

  return {
    "text": texts(size.caption_length),
    "vision": numbers(size.num_frames, size.image_size, size.image_size, 3),
    "audio": numbers(1, size.audio_rows, MELS),
    "subtitle": texts(size.subtitle_length),
  }


def make_objective(
  model: PMRLModel,
  draw: Callable[..., jax.Array] = sample_hard_negatives,
  micro_batch_size: int | None = None,
) -> training.step.Objective:
  """The published objective of a model."""
  return training.make_matching_objective(
    model,
    tasks=[TASK],
    loss=PUBLISHED,
    draw=draw,
    micro_batch_size=micro_batch_size,
  )


def make_optimizer() -> tuple[optax.GradientTransformation, optax.Schedule]:
  """The published optimizer."""
  return training.make_optimizer(
    learning_rate=LEARNING_RATE,
    steps=_STEPS,
    warmup_steps=1,
    **training.PUBLISHED_OPTIMIZER,
  )


class Step(NamedTuple):
  """A compiled or compilable training step, and what it is called with."""

  start: Callable[[], training.TrainState]
  run: Any  # jitted, (state, batch) -> (state, metrics); takes the state
  batch: dict[str, Any]

  def lower(self) -> jax.stages.Lowered:
    """The step on shapes alone."""
    state = jax.eval_shape(self.start)
    shapes = jax.tree.map(
      lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.batch
    )
    return self.run.lower(state, shapes)


def make_step(
  case: StepCase,
  model: PMRLModel | None = None,
  micro_batch_size: int | None = None,
) -> Step:
  """The step of a case, as `experiments.train` would make it.

  Args:
    case: The case.
    model: Its model, if not as `build_model` has it by default.
    micro_batch_size: How many instances are encoded, and matched, at a time;
      None: all. The loss is that of the batch all the same.
  """
  model = build_model(case) if model is None else model
  optimizer, schedule = make_optimizer()
  run = training.make_train_step(
    make_objective(model, micro_batch_size=micro_batch_size),
    optimizer,
    schedule=schedule,
    seed=0,
    max_skipped=1,
    mesh=training.make_mesh(devices=jax.devices()[:1]),
  )
  one = jax.tree.map(lambda x: x[:1], inputs(case._replace(batch=1)))

  def start() -> training.TrainState:
    params = model.init(jax.random.key(0), one)["params"]
    return training.create_state(params, optimizer)

  return Step(start, run, {"inputs": inputs(case)})


def contestants() -> list[Contestant[StepCase]]:
  """Our step as it is by default, with less memory, and in a loop."""
  states: States = {}
  return [
    Contestant(OURS, OURS, build(states)),
    Contestant(_FRUGAL, OURS, build(states, remat="dots")),
    Contestant(_IN_A_LOOP, OURS, build(states, scan_layers=True)),
  ]


# What contestants step in turns, so that there is one state in memory.
States = dict[StepCase, training.TrainState]


def build(
  states: States, micro_batch_size: int | None = None, **options: Any
) -> Callable[[StepCase], Callable[[], Any]]:
  """Makes the `build` of a contestant.

  Args:
    states: The states of cases, common to contestants. That of a step that
      failed is gone, and made again.
    micro_batch_size: Of `make_step`.
    **options: Of `build_model`.
  """

  def build_step(case: StepCase) -> Callable[[], Any]:
    step = make_step(case, build_model(case, **options), micro_batch_size)
    compiled = step.lower().compile()
    batch = jax.device_put(step.batch)
    if case not in states:
      states.clear()  # those of other cases only take memory
      states[case] = jax.jit(step.start)()

    def call() -> jax.Array:
      state, metrics = compiled(states.pop(case), batch)
      states[case] = jax.block_until_ready(state)
      return metrics["loss"]

    return call

  return build_step
