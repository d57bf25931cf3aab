"""One training: the same encoders, batches and steps whatever the loss."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.compare.contenders import Contender, Extras
from experiments.compare.view_sets import ViewSet
from pmrl_jax import encoders, training

BATCH_SIZE = 128
DIM = 64
ENCODER: dict[str, Any] = {
  "width": 256,
  "depth": 1,
  "dropout_rate": 0.2,
  "input_dropout_rate": 0.1,
}
OPTIMIZER: dict[str, Any] = {
  "learning_rate": 1e-3,
  "weight_decay": 1e-2,
  "clip_norm": 1.0,
}
WARMUP_SHARE = 0.1  # of the steps

# Steps between looks at the clock, and at what the user typed.
_CHUNK = 20


class Trained(NamedTuple):
  """What a training gives."""

  embeddings: dict[str, np.ndarray]  # {part: [instance, modality, dim]}
  seconds_per_step: float  # median; no compilation
  skipped_steps: int  # whose gradient was not finite


# (loss, temperature, seed) -> result
Train = Callable[[str, float, int], Trained]


def build_trainer(
  view_set: ViewSet, contenders: Mapping[str, Contender], steps: int
) -> Train:
  """Compiles one program that trains with any of the losses.

  Which loss and which temperature are arguments of the program, so that one
  compilation serves all trainings of a data set.

  Args:
    view_set: The data.
    contenders: The losses that are defined for it.
    steps: Steps of every training.

  Returns:
    The function that trains.
  """
  names = list(contenders)
  num_rows = len(view_set.train.labels)
  views = jax.device_put(view_set.train.views)
  model = encoders.MultimodalEncoder(
    {view: encoders.TableEncoder(**ENCODER) for view in views}, dim=DIM
  )
  optimizer, _ = training.make_optimizer(
    steps=steps, warmup_steps=int(steps * WARMUP_SHARE), **OPTIMIZER
  )
  # A step that is not finite changes nothing, however many there are.
  optimizer = optax.apply_if_finite(optimizer, steps)
  advance = jax.jit(_make_advance(model, optimizer, contenders))

  @jax.jit
  def start(key: jax.Array) -> tuple[Any, Any]:
    two = {view: jnp.zeros((2, x.shape[1])) for view, x in views.items()}
    params = {"model": model.init(key, two)["params"], "free": jnp.zeros(())}
    return params, optimizer.init(params)

  @jax.jit
  def embed(params: Any, inputs: Mapping[str, jax.Array]) -> jax.Array:
    return model.apply({"params": params["model"]}, inputs)[0]

  def train(loss: str, temperature: float, seed: int) -> Trained:
    key = jax.random.key(seed)
    batches = jax.device_put(_batches(num_rows, steps, seed))
    arguments = (views, batches, key, names.index(loss), temperature)
    # No steps: compiles at the first call, and costs nothing afterwards.
    state = advance(start(key), *arguments, 0, 0)
    jax.block_until_ready(state)
    rates = []
    for first in range(0, steps, _CHUNK):
      last = min(first + _CHUNK, steps)
      began = time.perf_counter()
      state = jax.block_until_ready(advance(state, *arguments, first, last))
      rates.append((time.perf_counter() - began) / (last - first))
    params, optimizer_state = state
    embeddings = {
      part: np.asarray(embed(params, getattr(view_set, part).views))
      for part in ("train", "validation", "test")
    }
    skipped = int(optimizer_state.total_notfinite)
    return Trained(embeddings, float(np.median(rates)), skipped)

  return train


def batch_size(num_rows: int) -> int:
  """The batch size for so many training rows; smaller if they are fewer."""
  return min(BATCH_SIZE, num_rows)


def fingerprint(contender: Contender, num_modalities: int, rows: int) -> str:
  """A hash of what a loss and its gradient compute.

  Two versions of a loss must not be told as one, and neither the name nor the
  revision of the code says whether they differ.

  Args:
    contender: The loss.
    num_modalities: Of the data.
    rows: Training rows of the data.

  Returns:
    The hash; it does not depend on the process.
  """
  embeddings = jax.ShapeDtypeStruct(
    (batch_size(rows), num_modalities, DIM), jnp.float32
  )
  program = jax.make_jaxpr(_differentiated(contender))(
    embeddings, 0.0, 1.0, jax.random.key(0)
  )
  # Functions are printed with where they lie in memory.
  text = re.sub(r" at 0x[0-9a-f]+", "", str(program))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _make_advance(
  model: Any,
  optimizer: optax.GradientTransformation,
  contenders: Mapping[str, Contender],
) -> Callable:
  """Returns the function that takes a number of training steps.

  The gradient by the embeddings is taken inside of the branches of a switch,
  since only the loss differs; the encoders are differentiated around it.
  """
  branches = [_differentiated(each) for each in contenders.values()]

  def advance(
    state: tuple[Any, Any],
    views: Mapping[str, jax.Array],
    batches: jax.Array,  # int32 [step, batch]
    key: jax.Array,
    loss: jax.Array,  # int32 [], which branch
    temperature: jax.Array,
    first: jax.Array,  # int32 []
    last: jax.Array,
  ) -> tuple[Any, Any]:
    def step(index: jax.Array, state: tuple[Any, Any]) -> tuple[Any, Any]:
      params, optimizer_state = state
      inputs = {view: values[batches[index]] for view, values in views.items()}
      dropout_key, loss_key = jax.random.split(jax.random.fold_in(key, index))

      def encode(params: Any) -> jax.Array:
        return model.apply(
          {"params": params}, inputs, train=True, rngs={"dropout": dropout_key}
        )[0]

      embeddings, pull_back = jax.vjp(encode, params["model"])
      _, (towards, free) = jax.lax.switch(
        loss, branches, embeddings, params["free"], temperature, loss_key
      )
      gradient = {"model": pull_back(towards)[0], "free": free}
      updates, optimizer_state = optimizer.update(
        gradient, optimizer_state, params
      )
      return optax.apply_updates(params, updates), optimizer_state

    return jax.lax.fori_loop(first, last, step, state)

  return advance


def _differentiated(contender: Contender) -> Callable:
  """Loss and gradient: a function of embeddings, free, temperature, key."""

  def loss(
    embeddings: jax.Array,
    free: jax.Array,
    temperature: jax.Array,
    key: jax.Array,
  ) -> jax.Array:
    return contender.loss(embeddings, Extras(temperature, free, key))

  return jax.value_and_grad(loss, argnums=(0, 1))


def _batches(num_rows: int, steps: int, seed: int) -> np.ndarray:
  """The rows of every batch: int32 `[step, batch]`.

  Every epoch is a new order; its incomplete batch is left out, so that no
  batch holds an instance twice.
  """
  size = batch_size(num_rows)
  per_epoch = num_rows // size
  rng = np.random.default_rng(seed)
  epochs = [
    rng.permutation(num_rows)[: per_epoch * size].reshape(per_epoch, size)
    for _ in range(-(-steps // per_epoch))
  ]
  return np.concatenate(epochs)[:steps].astype(np.int32)
