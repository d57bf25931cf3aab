"""The published training step, number by number, and what ours adds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import training
from pmrl_jax.losses import (
  PUBLISHED,
  instance_contrastive_loss,
  singular_spectrum,
)
from pmrl_jax.weights.published import published_table
from pmrl_jax.weights.state_dict import to_state_dict
from tests.published.conftest import assert_near, load

# {golden: its tasks}.
TASKS = {
  "tv": ["tv"],
  "ta": ["ta"],
  "tva": ["tva"],
  "tv_ta": ["tv", "ta"],
  "tva_subs": ["tva"],
  "tvs": ["tvs"],
  "tvas": ["tvas"],
}


def without_dropout(model):
  """Goldens were made in evaluation mode."""
  quiet = dict(model.encoders)
  quiet["text"] = quiet["text"].clone(
    dropout_rate=0.0, attention_dropout_rate=0.0
  )
  return model.clone(encoders=quiet)


class Recorded:
  """Draws recorded negatives, and keeps what it was asked."""

  def __init__(self, negatives):
    self.negatives, self.asked = list(negatives), []

  def __call__(self, key, similarities, *, temperature, where, ids):
    self.asked.append(similarities / temperature)
    return jnp.asarray(self.negatives[len(self.asked) - 1])


def recorded(golden, tasks):
  return Recorded(
    golden[f"in/{task}/neg_{side}_idx"]
    for task in tasks
    for side in ("cond", "text")
  )


def flat_gradients(model, gradients):
  """`{official key: gradient}`; of tensors with copies the first key."""
  return dict(to_state_dict(gradients, published_table(model)))


def step(published, name, **options):
  """The loss of a golden, its terms, gradients and the draws' questions."""
  golden, config = load(f"pmrl_ret_{name}")
  inputs = dict(published.inputs)
  if not config["batch_has_raw_subtitles"]:
    del inputs["subtitle"]
  draw = recorded(golden, TASKS[name])
  model = without_dropout(published.model)
  objective = training.make_matching_objective(
    model, tasks=TASKS[name], loss=PUBLISHED, draw=draw, **options
  )

  def run(params, inputs):
    loss, terms = objective(params, {"inputs": inputs}, jax.random.key(0))
    return loss, (terms, draw.asked)

  run = jax.jit(jax.value_and_grad(run, has_aux=True))
  results = run(published.params, inputs)
  (loss, (terms, asked)), gradients = results
  return golden, config, loss, terms, asked, flat_gradients(model, gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_step_is_the_published_one(published, name):
  golden, config, loss, terms, asked, gradients = step(published, name)
  near = functools.partial(assert_near, tolerance=1e-4)
  near(terms["alignment"], golden["out/loss_intra"])
  near(terms["instance"], golden["out/loss_inter_canonical_sign"])
  near(0.1 * terms["matching"], golden["out/loss_itm"])
  near(loss, golden["out/total_canonical_sign"])
  for task, t2c, c2t in zip(TASKS[name], asked[::2], asked[1::2]):
    near(t2c, golden[f"out/{task}/sim_t2cond"])
    for logits, weights in (
      (t2c, golden[f"out/{task}/weights_t2cond"]),
      (c2t, golden[f"out/{task}/weights_cond2t"]),
    ):
      near((jax.nn.softmax(logits) + 1e-4) * (1 - np.eye(4)), weights)
  check_gradients(golden, config, gradients)


def check_gradients(golden, config, gradients):
  """Full ones where given, norms of all, none where there should be none."""
  norms = {
    key.removeprefix("gradnorm/"): float(value)
    for key, value in golden.items()
    if key.startswith("gradnorm/")
  }
  largest = max(norms.values())
  assert len(norms) > 100
  for key, norm in norms.items():
    actual = np.linalg.norm(gradients[key])
    # Keys' biases have a gradient of zero, up to rounding.
    assert abs(actual - norm) <= 1e-4 * norm + 1e-6 * largest, key
  for key, value in golden.items():
    if key.startswith("grad/"):
      actual = gradients[key.removeprefix("grad/")]
      scale = max(np.abs(value).max(), 1e-4 * largest)
      assert np.abs(actual - value).max() <= 1e-4 * scale, key
  for key in config["params_without_gradient"]:
    assert not np.any(gradients.get(key, 0.0)), key


@pytest.mark.parametrize("name", TASKS)
def test_the_spectrum_is_the_published_one_in_both_signs(published, name):
  golden, config = load(f"pmrl_ret_{name}")
  letters = config["modalities_in_svd"].split(",")
  x = np.stack([published.golden[f"out/feat_{i}"] for i in letters], axis=1)
  spectrum = singular_spectrum(jnp.asarray(x))
  assert_near(spectrum.singular_values, golden["out/singular_values"])
  u = spectrum.leading_direction
  assert_near(u, golden["out/u1_canonical"])
  signs = golden["out/u1_lapack_sign_vs_canonical"][:, None]
  assert_near(u * signs, golden["out/u1_lapack"])
  losses = instance_contrastive_loss(u * signs, temperature=0.1)
  assert_near(losses.mean(), golden["out/loss_inter_lapack_sign"])
  total = golden["out/loss_intra"] + losses.mean() + golden["out/loss_itm"]
  assert_near(total, golden["out/total_lapack_sign"])


@pytest.fixture(scope="module")
def match(published):
  """Compiled once: what a task leaves out of the condition is masked."""
  return jax.jit(
    lambda *rows: published.model.apply(
      {"params": published.params}, *rows, method="match"
    )
  )


@pytest.mark.parametrize("name", TASKS)
def test_matching_logits_are_the_published_ones(published, match, name):
  golden, _ = load(f"pmrl_ret_{name}")
  ids = jnp.asarray(published.inputs["text"])
  condition = published.golden["out/condition_feats_vas"]
  letters = np.repeat(["v", "a", "s"], [34, 256, 18])
  for task in TASKS[name]:
    other_condition = golden[f"in/{task}/neg_cond_idx"]
    other_text = golden[f"in/{task}/neg_text_idx"]
    seen = np.isin(letters, list(task))
    logits = match(
      jnp.concatenate([ids, ids, ids[other_text]]),
      jnp.concatenate([condition, condition[other_condition], condition]),
      jnp.asarray(np.broadcast_to(seen, (12, len(seen)))),
    )
    assert_near(logits, golden[f"out/{task}/itm_logits"])


@pytest.mark.slow
def test_two_groups_on_two_devices_are_two_published_processes(published):
  golden, _ = load("pmrl_ret_two_ranks")
  mesh = training.make_mesh(devices=jax.devices()[:2])
  negatives = [
    np.concatenate([golden[f"in/rank{rank}/neg_{side}_idx"] for rank in (0, 1)])
    for side in ("cond", "text")
  ]
  model = without_dropout(published.model)
  draw = Recorded(negatives)
  objective = training.make_matching_objective(
    model, tasks=["tvas"], loss=PUBLISHED, num_groups=2, draw=draw
  )

  @training.replicated_jit(mesh)
  def run(params, inputs):
    def loss(params):
      total, terms = objective(params, {"inputs": inputs}, jax.random.key(0))
      return total, (terms, draw.asked)

    return jax.value_and_grad(loss, has_aux=True)(params)

  inputs = training.shard_batch(published.inputs, mesh)
  params = training.replicate(published.params, mesh)
  (_, (terms, asked)), gradients = run(params, inputs)
  expected = {
    name: np.mean([golden[f"out/rank{rank}/{key}"] for rank in (0, 1)])
    for name, key in (
      ("alignment", "loss_intra"),
      ("instance", "loss_inter"),
      ("matching", "loss_itm"),
    )
  }
  assert_near(terms["alignment"], expected["alignment"])
  assert_near(terms["instance"], expected["instance"])
  assert_near(0.1 * terms["matching"], expected["matching"])
  for logits, side in zip(asked, ("t2cond", "cond2t")):
    weights = (jax.nn.softmax(logits) + 1e-4) * (1 - np.eye(4))
    published_weights = [
      golden[f"out/rank{rank}/weights_{side}"] for rank in (0, 1)
    ]
    assert_near(weights, np.concatenate(published_weights))
  # They add up the gradients of the processes; ours is the mean.
  doubled = {
    key: 2 * value for key, value in flat_gradients(model, gradients).items()
  }
  golden = {key.replace("_sum/", "/"): value for key, value in golden.items()}
  check_gradients(golden, {"params_without_gradient": []}, doubled)
