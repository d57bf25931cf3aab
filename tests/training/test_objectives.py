"""The objective with matching: presence, negatives, groups, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import encoders, training
from pmrl_jax.encoders import task_modalities
from pmrl_jax.losses import pmrl_loss

BATCH = 8
LOSS = {"contrast": "directions", "instance_weight": 1.0}


class Model:
  """Methods like those of `PMRLModel`, of a few products each."""

  caption = "text"
  modalities = ("text", "depth", "pose")

  def init(self):
    key = iter(jax.random.split(jax.random.key(0), 8))

    def normal(*shape):
      return jax.random.normal(next(key), shape)

    return {
      "words": normal(20, 4),
      "depth": normal(5, 4),
      "pose": normal(5, 4),
      "fused_heads": normal(8, 4),
      "temperature": jnp.array(0.3),
      "matching_head": normal(4, 2),
    }

  def task(self, names):
    return task_modalities(names, self.modalities)

  def apply(self, variables, *arguments, method, **options):
    options.pop("rngs", None)
    options.pop("train", None)
    run = getattr(self, f"_{method}")
    return run(variables["params"], *arguments, **options)

  def condition(self, encoded, names):
    names = [name for name in self.task(names) if name != self.caption]
    columns = np.array([self.modalities.index(name) for name in names])
    return encoded.embeddings[:, columns], encoded.where[:, columns]

  def _encode(self, params, inputs, *, where):
    embeddings = jnp.stack(
      [params["words"][inputs["text"]].mean(axis=1)]
      + [jnp.tanh(inputs[name] @ params[name]) for name in ("depth", "pose")],
      axis=1,
    )
    if where is None:
      where = jnp.ones(embeddings.shape[:2], bool)
    embeddings = jnp.where(where[..., None], embeddings, 0)
    return encoders.Encoded(embeddings, where, {}, {})

  def _feature(self, params, encoded, names):
    names = self.task(names)
    columns = np.array([self.modalities.index(name) for name in names])
    x, where = encoded.embeddings[:, columns], encoded.where[:, columns]
    x = x.reshape(len(x), -1)
    if len(names) == 2:
      x = x @ params["fused_heads"]
    length = jnp.sqrt(jnp.sum(x * x, axis=1, keepdims=True) + 1e-9)
    return x / length, where.any(axis=1)

  def _temperature(self, params):
    return params["temperature"]

  def _match(self, params, ids, condition, where, reads=(0,)):
    seen = jnp.where(where[..., None], condition, 0).sum(axis=1)
    groups = seen.reshape(-1, max(reads) + 1, seen.shape[-1])
    seen = groups[:, jnp.array(reads)].reshape(-1, seen.shape[-1])
    read = params["words"][ids].mean(axis=1)
    return jnp.tanh(read * seen) @ params["matching_head"]


@pytest.fixture(scope="module")
def model():
  return Model()


@pytest.fixture(scope="module")
def params(model):
  return model.init()


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return {
    "inputs": {
      "text": rng.integers(1, 20, size=(BATCH, 6)).astype(np.int32),
      "depth": rng.normal(size=(BATCH, 5)).astype(np.float32),
      "pose": rng.normal(size=(BATCH, 5)).astype(np.float32),
    },
    "where": np.ones((BATCH, 3), bool),
    "ids": np.arange(BATCH, dtype=np.int32),
  }


def evaluate(model, params, batch, mesh=None, **options):
  """Loss, terms and gradients."""
  options = {"tasks": ["tdp"], "loss": LOSS, **options}
  objective = training.make_matching_objective(model, **options)
  step = jax.jit(jax.value_and_grad(objective, has_aux=True))
  if mesh is not None:
    batch = training.shard_batch(batch, mesh)
    params = training.replicate(params, mesh)
  (loss, terms), gradients = step(params, batch, jax.random.key(3))
  return jax.device_get((loss, terms, gradients))


def encode(model, params, batch):
  return model.apply(
    {"params": params}, batch["inputs"], where=None, method="encode"
  )


def assert_equal(first, second, atol=1e-5):
  for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


@pytest.fixture(scope="module")
def whole(model, params, batch):
  return evaluate(model, params, batch)


def test_the_loss_is_the_weighted_sum_of_its_terms(whole):
  loss, terms, _ = whole
  expected = terms["alignment"] + terms["instance"] + 0.1 * terms["matching"]
  np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_eight_devices_give_the_loss_and_gradient_of_one(
  model, params, batch, whole
):
  assert_equal(evaluate(model, params, batch, training.make_mesh()), whole)


def test_micro_batches_give_the_loss_and_gradient_of_the_batch(
  model, params, batch, whole
):
  assert_equal(evaluate(model, params, batch, micro_batch_size=3), whole)


def test_heads_of_joint_features_learn_from_the_pairwise_term_alone(
  model, params, batch, whole
):
  _, terms, gradients = evaluate(
    model, params, batch, pairwise_weight=0.5, label_smoothing=0.1
  )
  assert terms["pairwise"] > 0
  for name in ("fused_heads", "temperature"):
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradients[name]))
    untouched = jax.tree.leaves(whole[2][name])
    assert not any(np.any(leaf) for leaf in untouched)


@pytest.mark.slow
def test_groups_see_only_themselves(model, params, batch):
  options = {"matching_weight": 0.0, "num_groups": 2}
  loss, terms, _ = evaluate(model, params, batch, **options)
  assert "matching" not in terms
  embeddings = encode(model, params, batch).embeddings
  halves = [pmrl_loss(x, **LOSS).loss for x in jnp.split(embeddings, 2)]
  np.testing.assert_allclose(loss, np.mean(halves), rtol=1e-5)


def test_hard_negatives_are_of_the_own_pool(model, params, batch):
  def next_of(pool):
    def draw(key, similarities, **options):
      index = np.arange(len(similarities))
      return jnp.asarray(index // pool * pool + (index + 1) % pool)

    return draw

  pools = evaluate(model, params, batch, num_pools=2, draw=next_of(BATCH // 2))
  assert_equal(pools, evaluate(model, params, batch, draw=next_of(BATCH // 2)))
  _, terms, _ = evaluate(model, params, batch, draw=next_of(BATCH))
  assert terms["matching"] != pools[1]["matching"]


def test_what_is_absent_has_no_influence(model, params, batch):
  """Of a text alone, nothing is matched; of an absent pose, the rest is."""
  where = batch["where"].copy()
  where[2, 1:] = False
  where[5, 2] = False
  where[6, 0] = False
  other = {**batch["inputs"]}
  for name, rows in (("depth", [2]), ("pose", [2, 5]), ("text", [6])):
    other[name] = other[name].copy()
    other[name][rows] = 3
  first, second = (
    evaluate(model, params, {**batch, "inputs": inputs, "where": where})
    for inputs in (batch["inputs"], other)
  )
  assert np.isfinite(first[0])
  assert_equal(first, second)


def test_instances_with_the_same_id_are_no_negatives(model, params, batch):
  """Nothing is left to draw, so only own pairs are matched."""
  alike = {**batch, "ids": np.zeros(BATCH, np.int32)}
  _, terms, _ = evaluate(model, params, alike, tasks=["td"])
  encoded = encode(model, params, batch)
  condition, where = model.condition(encoded, "td")
  logits = model.apply(
    {"params": params},
    batch["inputs"]["text"],
    condition,
    where,
    method="match",
  )
  expected = -jax.nn.log_softmax(logits)[:, 1].mean()
  np.testing.assert_allclose(terms["matching"], expected, rtol=1e-5)


@pytest.mark.slow
def test_it_trains(model, params, batch):
  mesh = training.make_mesh(devices=jax.devices()[:2])
  optimizer, schedule = training.make_optimizer(learning_rate=0.01, steps=20)
  step = training.make_train_step(
    training.make_matching_objective(model, tasks=["tdp"], loss=LOSS),
    optimizer,
    schedule=schedule,
    seed=0,
    max_skipped=3,
    mesh=mesh,
  )
  copied = jax.tree.map(jnp.copy, params)
  state = training.replicate(training.create_state(copied, optimizer), mesh)
  losses = []
  for _ in range(10):
    state, metrics = step(state, training.shard_batch(batch, mesh))
    losses.append(float(metrics["loss"]))
  assert np.isfinite(losses).all() and losses[-1] < losses[0]


@pytest.mark.parametrize(
  "options,message",
  [
    ({"tasks": ["dp"]}, "must name the captions, 'text'"),
    ({"tasks": ["t"]}, "one modality or more to match them with"),
    ({"tasks": []}, "got none"),
    ({"matching_weight": -1.0}, "matching_weight must not be negative"),
    ({"num_groups": 0}, "num_groups must be at least 1"),
    ({"num_groups": 3}, "num_groups must divide the batch, got 3 for 8"),
    ({"num_pools": 0}, "num_pools must be at least 1"),
    ({"num_pools": 3}, "num_pools must divide the batch, got 3 for 8"),
  ],
)
def test_wrong_options_are_explained(model, params, batch, options, message):
  with pytest.raises(ValueError, match=message):
    evaluate(model, params, batch, **options)
