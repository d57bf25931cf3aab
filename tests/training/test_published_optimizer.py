"""The published recipe: groups, schedule, AdamW; and options of our own."""

import json
import pathlib

import chex
import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from pmrl_jax import encoders, training
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.tables import LAYER, Entry

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"
OPTIONS = {
  **training.PUBLISHED_OPTIMIZER,
  "learning_rate": 2e-5,
  "steps": 40,
  "warmup_steps": 4,
}


def load(name):
  with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
    arrays = dict(file)
  return arrays, json.loads(bytes(arrays.pop("cfg/json")))


@pytest.fixture(scope="module")
def golden():
  return load("optim")


@pytest.fixture(scope="module")
def entries():
  """`{official key: entry}` of the model that the golden is about."""
  model = encoders.PMRLModel(
    encoders={
      "text": encoders.Bert(depth=3),
      "vision": encoders.EvaVisionTransformer(depth=2),
      "audio": encoders.Beats(depth=3),
    }
  )
  found = {}
  for line in published_table(model):
    if isinstance(line, Entry):
      for layer in range(max(line.depth, 1)):
        found[line.key.replace(LAYER, str(layer))] = line
  return found


def tree(leaves):
  """`{"a/b": x}` as `{"a": {"b": x}}`."""
  nested = {}
  for path, leaf in leaves.items():
    *parents, name = path.split("/")
    branch = nested
    for parent in parents:
      branch = branch.setdefault(parent, {})
    branch[name] = leaf
  return nested


def first_update(optimizer, *, params, gradients):
  @jax.jit
  def update(params, gradients):
    return optimizer.update(gradients, optimizer.init(params), params)[0]

  return update(params, gradients)


def test_rates_and_decay_of_every_parameter_are_the_published_ones(
  golden, entries
):
  _, config = golden
  _, step = load("pmrl_ret_tvas")
  expected = {}
  for group in config["groups"]:
    for key in group["names"]:
      if key in entries:
        frozen = key in step["params_without_gradient"]
        rate = 0.0 if frozen else group["lr"]
        # All layers of a parameter are in one group.
        path = entries[key].path
        both = (rate, rate * group["weight_decay"])
        assert expected.setdefault(path, both) == both
  assert len(expected) > 90
  optimizer, rate = training.make_optimizer(
    **OPTIONS | {"warmup_steps": 0, "steps": 10_000}
  )
  assert rate(0) == pytest.approx(2e-5, rel=1e-3)
  ones = tree({path: jnp.ones(()) for path in expected})
  zeros = jax.tree.map(jnp.zeros_like, ones)
  learns = first_update(optimizer, params=zeros, gradients=ones)
  decays = first_update(optimizer, params=ones, gradients=zeros)
  np.testing.assert_allclose(
    jnp.stack(jax.tree.leaves((learns, decays))),
    -jnp.stack(
      [jnp.float32(x) for i in (0, 1) for x in leaves_in_order(expected, i)]
    ),
    rtol=1e-3,
    atol=1e-12,
  )


def leaves_in_order(expected, index):
  return jax.tree.leaves(tree({p: both[index] for p, both in expected.items()}))


def test_schedule_is_the_published_one(golden):
  _, rate = training.make_optimizer(**OPTIONS)
  factors = golden[0]["out/sched_warmup_linear"]
  # Entry 0 is never used: the counter is raised before the rate is looked up.
  rates = [rate(step) / 2e-5 for step in range(len(factors) - 1)]
  np.testing.assert_allclose(rates, factors[1:], atol=1e-6)
  # A tenth of the steps need not be a whole number.
  _, rate = training.make_optimizer(
    **OPTIONS | {"steps": 44, "warmup_steps": 4.4}
  )
  x = np.arange(1, 45) / 44
  expected = np.where(x < 0.1, x / 0.1, (1 - x) / 0.9)
  rates = [rate(step) / 2e-5 for step in range(44)]
  np.testing.assert_allclose(rates, expected, atol=1e-6)


def test_seven_steps_are_the_published_ones(golden, entries):
  arrays, _ = golden
  optimizer, _ = training.make_optimizer(**OPTIONS)
  start = {
    key.removeprefix("in/param0/"): array
    for key, array in arrays.items()
    if key.startswith("in/param0/")
  }

  def flax(prefix):
    leaves = {}
    for key, value in start.items():
      entry = entries[key]
      # The temperature has no gradient.
      array = arrays.get(prefix + key, np.zeros_like(value))
      leaves[entry.path] = jnp.asarray(entry.layout.to_flax(array))
    # Patterns have to fit.
    leaves["fused_heads_vision_audio/bias"] = jnp.zeros(2)
    leaves["encoders_text/predictions/bias"] = jnp.zeros(2)
    return tree(leaves)

  @jax.jit
  def update(params, state, gradients):
    updates, state = optimizer.update(gradients, state, params)
    return optax.apply_updates(params, updates), state

  params = flax("in/param0/")
  first, state = params, optimizer.init(params)
  for step in range(1, 8):
    params, state = update(params, state, flax(f"in/grad{step}/"))
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8),
      params,
      flax(f"out/param{step}/"),
    )
  moved = jax.tree.map(lambda a, b: bool((a != b).any()), first, params)
  assert not moved["temperature"]
  assert moved["heads_text"]["kernel"]


def test_published_adamw_equals_its_formula_in_float64():
  # With tiny gradients epsilon counts, and with large rates the order.
  b1, b2, eps, decay, rate = 0.9, 0.98, 1e-6, 0.1, 0.5
  optimizer, _ = training.make_optimizer(
    learning_rate=rate,
    steps=10**6,
    schedule="linear",
    variant="published",
    weight_decay=decay,
    clip_norm=None,
    b1=b1,
    b2=b2,
    eps=eps,
    not_decayed=("scale",),
  )
  generator = np.random.default_rng(0)
  expected = {"w": generator.normal(size=5), "scale": generator.normal(size=5)}
  params = jax.tree.map(jnp.float32, expected)
  state = optimizer.init(params)
  m = {name: np.zeros(5) for name in params}
  v = {name: np.zeros(5) for name in params}
  for t in range(1, 5):
    gradients = {name: 1e-6 * generator.normal(size=5) for name in params}
    updates, state = optimizer.update(
      jax.tree.map(jnp.float32, gradients), state, params
    )
    params = optax.apply_updates(params, updates)
    for name, p in expected.items():
      m[name] = b1 * m[name] + (1 - b1) * gradients[name]
      v[name] = b2 * v[name] + (1 - b2) * gradients[name] ** 2
      correction = np.sqrt(1 - b2**t) / (1 - b1**t)
      p = p - rate * correction * m[name] / (np.sqrt(v[name]) + eps)
      expected[name] = p - rate * (decay if name == "w" else 0.0) * p
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), params, expected
  )


def test_what_has_no_gradient_keeps_its_value_and_takes_no_memory():
  optimizer, _ = training.make_optimizer(
    learning_rate=0.1,
    steps=10,
    weight_decay=0.5,
    without_gradient=("^a$",),
    learning_rates=(("^c", 0.01),),
  )
  params = {name: jnp.ones((2, 3)) for name in "abc"}
  zeros = jax.tree.map(jnp.zeros_like, params)
  updates = first_update(optimizer, params=params, gradients=zeros)
  assert not updates["a"].any()
  np.testing.assert_allclose(updates["b"], -0.05)
  np.testing.assert_allclose(updates["c"], -0.005)
  moments = [
    leaf for leaf in jax.tree.leaves(optimizer.init(params)) if leaf.ndim == 2
  ]
  assert len(moments) == 4


def test_the_state_of_groups_survives_a_checkpoint(tmp_path):
  optimizer, _ = training.make_optimizer(**OPTIONS)
  names = ("encoders_vision/x", "encoders_text/norm/scale", "temperature")
  names += ("encoders_text/predictions/bias", "fused_heads_a/kernel")
  params = tree({name: jnp.ones(3) for name in names})
  updated = first_update(optimizer, params=params, gradients=params)
  states = []
  for leaves in (params, updated):
    state = training.create_state(leaves, optimizer)
    states.append(training.replicate(state, training.make_mesh()))
  saved, fresh = states
  iterator = iter(grain.MapDataset.range(9).to_iter_dataset())
  checkpointer = training.Checkpointer(tmp_path / "c")
  checkpointer.save(3, saved, iterator)
  restored = checkpointer.restore(fresh, iterator)
  checkpointer.close()
  chex.assert_trees_all_equal(restored.state, saved)


def test_the_options_fit_into_a_config():
  config = ml_collections.ConfigDict({"optimizer": dict(OPTIONS)})
  optimizer, _ = training.make_optimizer(**config.optimizer)
  assert json.loads(json.dumps(config.to_dict()))
  with pytest.raises(ValueError, match="every pattern"):
    optimizer.init({"w": jnp.ones(2)})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"schedule": "flat"}, r"schedule must be one of \['cosine', 'linear'\]"),
    ({"variant": "adam"}, "variant must be one of"),
    ({"learning_rates": (("x", 0.0),)}, "learning rate of 'x' must be positiv"),
  ],
)
def test_unknown_options_are_explained(change, message):
  with pytest.raises(ValueError, match=message):
    training.make_optimizer(learning_rate=0.1, steps=10, **change)


@pytest.mark.parametrize(
  "option",
  [
    {"without_gradient": ("^tempo",)},
    {"learning_rates": (("^tempo", 0.1),)},
    {"not_decayed": ("^tempo",)},
  ],
)
def test_a_pattern_that_fits_nothing_is_explained(option):
  optimizer, _ = training.make_optimizer(learning_rate=0.1, steps=9, **option)
  with pytest.raises(ValueError, match=r"got '\^tempo' and.*\['a/b'\]"):
    optimizer.init({"a": {"b": jnp.ones(2)}})
