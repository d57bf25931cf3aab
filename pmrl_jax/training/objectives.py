"""The published training objective: singular values, and matched texts.

Liu, Xia, Ng, Chua, Principled Multimodal Representation Learning, arXiv
2507.17343; the matching of Li et al., Align before Fuse, arXiv 2107.07651. The
optional pairwise term is that of Chen et al., VAST, arXiv 2305.18500.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from pmrl_jax.losses import (
  gradient_cache,
  matching_loss,
  pairwise_contrastive_loss,
  pmrl_loss,
  sample_hard_negatives,
)
from pmrl_jax.training.step import Metrics, Objective

Task = str | Iterable[str]

# Of a text, itself again and another text: which of the two conditions, its
# own and another one, each is read with.
_READS = (0, 1, 0)


def make_matching_objective(
  model: Any,
  *,
  tasks: Sequence[Task],
  loss: Mapping[str, Any],
  matching_weight: float = 0.1,
  pairwise_weight: float = 0.0,
  label_smoothing: float = 0.0,
  num_groups: int = 1,
  num_pools: int = 1,
  micro_batch_size: int | None = None,
  draw: Callable[..., jax.Array] = sample_hard_negatives,
  spectral: Callable[..., Any] = pmrl_loss,
) -> Objective:
  """Makes the objective of a model that embeds modalities and matches texts.

      loss = spectral + matching_weight * matching
             + pairwise_weight * pairwise

  * spectral: `pmrl_loss` of the embeddings of all modalities in the batch,
    whatever the tasks are.
  * matching: of each task, a text is read three times, with its own condition,
    with a condition easily mistaken for it, and with its own after the text
    was exchanged; the cross-entropy of telling which belong together. Mean
    over tasks.
  * pairwise: of each task, `pairwise_contrastive_loss` between the captions
    and the joint feature of the condition, with the model's temperature. Mean
    over tasks.

  Negatives of all terms are the other instances of the whole batch, on
  whatever devices they lie, unless groups or pools are asked for. As
  published, hard negatives are drawn without a gradient, so that the heads of
  joint features and the temperature, which nothing else uses, are not trained
  unless there is a pairwise term.

  Args:
    model: Has `apply` with the methods of `encoders.PMRLModel`.
    tasks: Each names the captions and the modalities of a condition, such as
      "tva"; see `encoders.task_modalities`.
    loss: Keyword arguments of `pmrl_loss`, such as `losses.PUBLISHED`.
    matching_weight: Published: 0.1. With 0 no text is read again.
    pairwise_weight: Published: 0.
    label_smoothing: Of the pairwise term. VAST: 0.1.
    num_groups: In how many groups of consecutive instances the batch falls
      for the spectral term, where an instance sees only its own group: as
      published on so many GPUs. 1: the whole batch.
    num_pools: In how many pools of consecutive instances the batch falls for
      hard negatives, which are drawn from an instance's own pool. Conditions
      are large, and of 1, the whole batch, every device is sent all of them;
      with as many pools as devices, none is sent.
    micro_batch_size: How many instances are encoded, and matched, at a time;
      see `losses.gradient_cache`. None: all.
    draw: How negatives are drawn, see `losses.sample_hard_negatives`.
    spectral: `losses.pmrl_loss`, or that of devices that share the batch.

  Returns:
    `(params, batch, key) -> (loss, terms)`. The batch holds `inputs`, `where`
    and `ids` (the latter two may be None); instances with the same id are
    never each other's negatives.

  Raises:
    ValueError: If a task names no caption or no condition, or a number is out
      of range.
  """
  for name, number in (
    ("matching_weight", matching_weight),
    ("pairwise_weight", pairwise_weight),
  ):
    if number < 0:
      raise ValueError(f"{name} must not be negative, got {number}")
  for name, number in (("num_groups", num_groups), ("num_pools", num_pools)):
    if number < 1:
      raise ValueError(f"{name} must be at least 1, got {number}")
  conditions = [_condition(model, task) for task in tasks]
  if not conditions:
    raise ValueError("tasks must name one task or more, got none")
  encode, match = _encoder(model), _matcher(model)
  if micro_batch_size is not None:
    encode = gradient_cache(encode, micro_batch_size=micro_batch_size)
    match = gradient_cache(match, micro_batch_size=micro_batch_size)

  def objective(
    params: Any, batch: Mapping[str, Any], key: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    encode_key, *task_keys = jax.random.split(key, 1 + len(conditions))
    where, ids = batch.get("where"), batch.get("ids")
    sent = {"inputs": batch["inputs"], "where": where}
    encoded = encode(params, sent, encode_key)
    total, terms = _spectral(
      spectral,
      encoded.embeddings,
      None if where is None else encoded.where,
      ids,
      num_groups,
      loss,
    )
    texts = jnp.asarray(batch["inputs"][model.caption])
    matching, pairwise = [], []
    for names, task_key in zip(conditions, task_keys):
      pair = _pair(model, params, encoded, names)
      if matching_weight:
        rows = _rows(
          {"text": texts, "ids": ids, **pair},
          model.condition(encoded, names),
          num_pools,
          key=jax.random.fold_in(task_key, 0),
          draw=draw,
        )
        matching.append(_matching(match, params, rows, task_key))
      if pairwise_weight:
        pairwise.append(_pairwise(pair, ids, label_smoothing))
    if matching:
      terms["matching"] = jnp.mean(jnp.stack(matching))
      total = total + matching_weight * terms["matching"]
    if pairwise:
      terms["pairwise"] = jnp.mean(jnp.stack(pairwise))
      total = total + pairwise_weight * terms["pairwise"]
    return total, terms

  return objective


def _condition(model: Any, task: Task) -> tuple[str, ...]:
  """The modalities of a task's condition."""
  names = model.task(task)
  condition = tuple(name for name in names if name != model.caption)
  if model.caption not in names or not condition:
    raise ValueError(
      f"a task must name the captions, {model.caption!r}, and one modality or "
      f"more to match them with, got {list(names)}"
    )
  return condition


def _encoder(model: Any) -> Callable[..., Any]:
  def encode(params: Any, batch: Mapping[str, Any], key: jax.Array) -> Any:
    return model.apply(
      {"params": params},
      batch["inputs"],
      where=batch["where"],
      train=True,
      rngs={"dropout": key},
      method="encode",
    )

  return encode


def _matcher(model: Any) -> Callable[..., jax.Array]:
  """Reads rows of texts: `[batch, row, ...] -> [batch, row, 2]`."""

  def match(params: Any, rows: dict[str, Any], key: jax.Array) -> jax.Array:
    shape = rows["ids"].shape[:2]
    # What belongs to an instance stays together, hence on its device.
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)
    logits = model.apply(
      {"params": params},
      flat["ids"],
      flat["condition"],
      flat["where"],
      reads=_READS,
      train=True,
      rngs={"dropout": key},
      method="match",
    )
    return logits.reshape(*shape, 2)

  return match


def _spectral(
  loss: Callable[..., Any],
  embeddings: jax.Array,
  where: jax.Array | None,
  ids: jax.Array | None,
  num_groups: int,
  arguments: Mapping[str, Any],
) -> tuple[jax.Array, Metrics]:
  """`pmrl_loss`, or its mean over groups that do not see each other."""

  def of_group(x: jax.Array, where: Any, ids: Any) -> tuple:
    result = loss(x, where=where, ids=ids, **arguments)
    return result.loss, result.alignment, result.instance

  if num_groups == 1:
    results = of_group(embeddings, where, ids)
  else:
    groups = _split((embeddings, where, ids), num_groups, "num_groups")
    results = jax.tree.map(jnp.mean, jax.vmap(of_group)(*groups))
  total, alignment, instance = results
  return total, {"alignment": alignment, "instance": instance}


def _split(tree: Any, count: int, name: str) -> Any:
  """Consecutive instances: `[batch, ...] -> [count, batch / count, ...]`."""

  def split(x: jax.Array) -> jax.Array:
    if x.shape[0] % count:
      raise ValueError(
        f"{name} must divide the batch, got {count} for {x.shape[0]} instances"
      )
    return x.reshape(count, x.shape[0] // count, *x.shape[1:])

  return jax.tree.map(split, tree)


def _pair(
  model: Any, params: Any, encoded: Any, names: tuple[str, ...]
) -> dict[str, jax.Array]:
  """Captions and joint features of their conditions, side by side."""
  features, present = zip(
    *(
      model.apply({"params": params}, encoded, each, method="feature")
      for each in ((model.caption,), names)
    )
  )
  return {
    "features": jnp.stack(features, axis=1),  # [batch, 2, dim]
    "where": jnp.stack(present, axis=1),  # [batch, 2]
    "temperature": model.apply({"params": params}, method="temperature"),
  }


def _rows(
  texts: Mapping[str, Any],
  conditions: tuple[jax.Array, jax.Array],
  num_pools: int,
  *,
  key: jax.Array,
  draw: Callable[..., jax.Array],
) -> dict[str, Any]:
  """What is read of each instance: as it is, and with hard negatives.

  Args:
    texts: `text` `[batch, length]`; `ids` `[batch]`, or None; and features
      that tell what is easily mistaken, see `_pair`.
    conditions: `[batch, tokens, width]`, and which of them there are.
    num_pools: In how many pools the batch falls.
    key: A random key.
    draw: Draws negatives.

  Returns:
    `ids` `[batch, 3, length]`, the text twice and another one; `condition`
    `[batch, 2, tokens, width]` and `where` `[batch, 2, tokens]`, its own and
    another one; `exists` `[batch, 3]`, which rows there are. Which text reads
    which condition is in `_READS`.
  """
  temperature = jax.lax.stop_gradient(texts["temperature"])

  def of_pool(key: jax.Array, pool: Mapping[str, Any]) -> dict[str, Any]:
    text, condition, seen = pool["text"], pool["condition"], pool["seen"]
    caption, joint = jnp.moveaxis(jax.lax.stop_gradient(pool["features"]), 1, 0)
    similarities = jnp.einsum("bd,Bd->bB", caption, joint, precision="highest")
    both = jnp.all(pool["where"], axis=1)
    options = {"temperature": temperature, "where": both, "ids": pool["ids"]}
    condition_key, text_key = jax.random.split(key)
    other_condition = draw(condition_key, similarities, **options)
    other_text = draw(text_key, similarities.T, **options)
    exists = jnp.stack(
      [other_condition >= -1, other_condition >= 0, other_text >= 0], axis=1
    )
    return {
      "ids": jnp.stack([text, text, text[other_text]], axis=1),
      "condition": jnp.stack([condition, condition[other_condition]], axis=1),
      "where": jnp.stack([seen, seen[other_condition]], axis=1),
      "exists": exists & both[:, None],
    }

  condition, seen = conditions
  batch = {
    "condition": condition,
    "seen": seen,
    **{name: texts[name] for name in ("text", "ids", "features", "where")},
  }
  if num_pools == 1:
    return of_pool(key, batch)
  pools = _split(batch, num_pools, "num_pools")
  rows = jax.vmap(of_pool)(jax.random.split(key, num_pools), pools)
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)


def _matching(
  match: Callable[..., jax.Array],
  params: Any,
  rows: dict[str, Any],
  key: jax.Array,
) -> jax.Array:
  """Mean cross-entropy over the rows that exist."""
  exists = rows["exists"]
  read = {name: x for name, x in rows.items() if name != "exists"}
  logits = match(params, read, jax.random.fold_in(key, 1))
  matched = jnp.broadcast_to(jnp.array([[True, False, False]]), exists.shape)
  losses = matching_loss(logits, matched, where=exists)
  return jnp.sum(losses) / jnp.maximum(jnp.sum(exists), 1)


def _pairwise(
  pair: dict[str, jax.Array], ids: jax.Array | None, label_smoothing: float
) -> jax.Array:
  """Mean contrastive loss over the instances that have both sides."""
  both = jnp.all(pair["where"], axis=1)
  losses = pairwise_contrastive_loss(
    pair["features"],
    temperature=pair["temperature"],
    where=pair["where"],
    ids=ids,
    label_smoothing=label_smoothing,
  )
  count = jnp.maximum(jnp.sum(both), 1)
  return jnp.sum(jnp.where(both, losses, 0)) / count
