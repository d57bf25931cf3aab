"""What devices send each other, read from the compiled programs."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from pmrl_jax.losses import (
  PUBLISHED,
  area_contrastive_loss,
  instance_contrastive_loss,
  pairwise_contrastive_loss,
  pmrl_loss,
  product_contrastive_loss,
  sigmoid_contrastive_loss,
  volume_contrastive_loss,
)

BATCH, NUM_MODALITIES, DIM = 64, 3, 16
SPLIT = PartitionSpec("data")
COLLECTIVE = re.compile(
  r"= \(?(\w+)\[([\d,]*)\].* (all-gather|all-reduce|reduce-scatter|all-to-all"
  r"|collective-permute|collective-broadcast)(?:-start)?\("
)


def mesh():
  return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def example(shape, dtype):
  return jax.ShapeDtypeStruct(
    shape, dtype, sharding=NamedSharding(mesh(), SPLIT)
  )


X = functools.partial(example, (BATCH, NUM_MODALITIES, DIM), jnp.float32)
WHERE = functools.partial(example, (BATCH, NUM_MODALITIES), jnp.bool_)
IDS = functools.partial(example, (BATCH,), jnp.int32)


def collectives(function, *arguments):
  """Lists `(operation, dtype, number of values)` of a compiled program."""
  program = jax.jit(function).lower(*arguments)
  return [
    (kind, dtype, int(np.prod([int(n) for n in shape.split(",") if n])))
    for dtype, shape, kind in COLLECTIVE.findall(program.compile().as_text())
  ]


def mean_of(loss, x, axis_name=None, **options):
  losses = jnp.mean(loss(x, axis_name=axis_name, **options))
  return losses if axis_name is None else jax.lax.pmean(losses, axis_name)


def pmrl(x, where=None, ids=None, **options):
  return pmrl_loss(x, where=where, ids=ids, **options).loss


def instance(x, **options):
  return instance_contrastive_loss(x[:, 0], **options)


FIRST = {
  "pmrl": pmrl,
  "pmrl_published": functools.partial(pmrl, **PUBLISHED),
  "pmrl_directions": functools.partial(pmrl, contrast="directions"),
  "pmrl_modalities": functools.partial(pmrl, contrast="modalities"),
  "pmrl_pairs": functools.partial(pmrl, contrast="pairs", solver="gram"),
  "instance": functools.partial(mean_of, instance, temperature=0.1),
  "pairwise": functools.partial(
    mean_of, pairwise_contrastive_loss, temperature=0.1
  ),
}
RIVALS = {
  "sigmoid": functools.partial(
    mean_of, sigmoid_contrastive_loss, temperature=0.1, bias=-1.0
  ),
  "volume": functools.partial(
    mean_of, volume_contrastive_loss, temperature=0.1
  ),
  "area": functools.partial(mean_of, area_contrastive_loss, temperature=0.1),
  "product": functools.partial(
    mean_of,
    product_contrastive_loss,
    temperature=0.1,
    key=jax.random.key(0),
  ),
}
LOSSES = FIRST | RIVALS
each_loss = pytest.mark.parametrize(
  "name",
  [*FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in RIVALS)],
)


@each_loss
@pytest.mark.parametrize("options", [{}, {"block_size": 8}])
def test_sharded_jit_takes_one_all_gather_and_one_all_reduce(name, options):
  sent = collectives(functools.partial(LOSSES[name], **options), X())
  kinds = sorted(kind for kind, _, _ in sent)
  assert kinds == ["all-gather", "all-reduce"]
  sizes = {kind: size for kind, _, size in sent}
  # Embeddings are gathered (both sides of a pair at most), a sum is reduced.
  assert sizes["all-gather"] <= 2 * BATCH * NUM_MODALITIES * DIM
  assert sizes["all-reduce"] <= 4


@each_loss
@pytest.mark.parametrize("options", [{}, {"block_size": 8}])
def test_shard_map_takes_one_all_gather_and_one_all_reduce(name, options):
  loss = functools.partial(LOSSES[name], axis_name="data", **options)
  mapped = jax.shard_map(
    loss, mesh=mesh(), in_specs=SPLIT, out_specs=PartitionSpec()
  )
  kinds = sorted(kind for kind, _, _ in collectives(mapped, X()))
  assert kinds == ["all-gather", "all-reduce"]


@each_loss
@pytest.mark.parametrize(
  "options", [{}, pytest.param({"block_size": 8}, marks=pytest.mark.slow)]
)
def test_shard_map_sends_instances_once_for_the_gradient_too(name, options):
  loss = functools.partial(LOSSES[name], axis_name="data", **options)
  mapped = jax.shard_map(
    loss, mesh=mesh(), in_specs=SPLIT, out_specs=PartitionSpec()
  )
  sent = collectives(jax.value_and_grad(mapped), X())
  kinds = sorted(kind for kind, _, _ in sent)
  if name in ("pmrl_modalities", "sigmoid", "product"):
    # Queries and keys differ: the gradient of the others' keys goes home.
    assert kinds == ["all-gather", "all-reduce", "reduce-scatter"]
    return
  # Beside the instances: their sums, and those of the losses.
  assert set(kinds) == {"all-gather", "all-reduce"} and len(kinds) <= 4
  large = [kind for kind, _, size in sent if size >= BATCH * DIM]
  assert large == ["all-gather"]


@pytest.mark.parametrize("name", ["pmrl", "pairwise"])
def test_ring_gathers_nothing(name):
  loss = functools.partial(LOSSES[name], axis_name="data", ring=True)
  mapped = jax.shard_map(
    loss, mesh=mesh(), in_specs=SPLIT, out_specs=PartitionSpec()
  )
  sent = collectives(jax.value_and_grad(mapped), X())
  assert {kind for kind, _, _ in sent} == {"all-reduce", "collective-permute"}
  share = BATCH // 8
  for kind, _, size in sent:
    # One device's share of both sides; or the loss and its count.
    limit = 2 * share * NUM_MODALITIES * DIM
    assert size <= (limit if kind == "collective-permute" else 4)


def test_masks_and_ids_add_a_few_bytes_per_instance():
  sent = collectives(LOSSES["pmrl"], X(), WHERE(), IDS())
  for kind, dtype, size in sent:
    if kind == "all-gather" and dtype != "f32":
      assert size <= 2 * BATCH * NUM_MODALITIES
  assert (
    sum(kind == "all-gather" and dtype == "f32" for kind, dtype, _ in sent) == 1
  )
  assert sum(kind == "all-reduce" for kind, _, _ in sent) == 1


@each_loss
def test_the_gradient_is_reduced_once_more(name):
  """Never the logits, and never one collective per modality."""
  sent = collectives(jax.value_and_grad(LOSSES[name]), X())
  assert len(sent) <= 3
  for _, _, size in sent:
    assert size <= 2 * BATCH * NUM_MODALITIES * DIM
