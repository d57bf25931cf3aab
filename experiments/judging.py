"""The matching head on the devices: which text belongs to which item."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.embedding import evaluation_inputs, in_order
from pmrl_jax import training
from pmrl_jax.training.sharding import batch_sharding


class Judge(NamedTuple):
  """What runs on the devices."""

  features: Callable[..., jax.Array]  # (params, encoded, names)
  condition: Callable[..., tuple]  # (params, batch) -> tokens, which are there
  probabilities: Callable[..., jax.Array]  # (params, ids, tokens, where, items)


def build_judge(model: Any, mesh: Mesh) -> Judge:
  """Compiles what runs on the devices, once for every shape."""

  @training.replicated_jit(mesh, static_argnames="names")
  def features(params: Any, encoded: Any, names: tuple) -> jax.Array:
    values, _ = model.apply(
      {"params": params}, encoded, names, method="feature"
    )
    return values

  @training.replicated_jit(mesh)
  def condition(params: Any, batch: Any) -> Any:
    encoded = model.apply(
      {"params": params}, batch["inputs"], where=batch["where"], method="encode"
    )
    tokens = model.condition(encoded, list(batch["inputs"]))
    return in_order(tokens, batch["rows"])

  @training.replicated_jit(mesh)
  def probabilities(
    params: Any, ids: Any, tokens: Any, where: Any, items: Any
  ) -> jax.Array:
    split = jax.lax.with_sharding_constraint
    ids, items = (split(x, batch_sharding(mesh)) for x in (ids, items))
    logits = model.apply(
      {"params": params}, ids, tokens[items], where[items], method="match"
    )
    return jax.nn.softmax(logits.astype(jnp.float32))[:, 1]

  return Judge(features, condition, probabilities)


def judge_pairs(
  judge: Judge,
  params: Any,
  mesh: Mesh,
  *,
  texts: np.ndarray,
  batches: Iterator[Any],
  wanted: np.ndarray,
  batch_size: int,
) -> np.ndarray:
  """The probabilities of the pairs that are wanted, and 0 of others.

  Conditions are large, so that there is only one batch of them at a time.

  Args:
    judge: What runs on the devices.
    params: The parameters.
    mesh: The devices.
    texts: `[text, length]` ids.
    batches: The items, `batch_size` at a time, in order.
    wanted: bool `[text, item]`.
    batch_size: How many pairs are judged at a time.

  Returns:
    float32 `[text, item]`.
  """
  judged = np.zeros(wanted.shape, np.float32)
  for number, batch in enumerate(batches):
    start = number * batch_size
    items, rows = np.nonzero(wanted[:, start : start + batch_size].T)
    if not len(items):
      continue
    sent = training.shard_batch(evaluation_inputs(batch), mesh)
    tokens, seen = judge.condition(params, sent)
    for begin in range(0, len(items), batch_size):
      # Always as many, so that it compiles once.
      pairs = np.arange(begin, begin + batch_size)
      pairs = np.minimum(pairs, len(items) - 1)
      some_texts, some_items = rows[pairs], items[pairs]
      judged[some_texts, start + some_items] = np.asarray(
        judge.probabilities(params, texts[some_texts], tokens, seen, some_items)
      )
  return judged
