"""Features and conditions of the published model, and what ours adds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import encoders
from pmrl_jax.encoders.resize import nearest_indices
from tests.published.conftest import assert_near

CONDITIONS = ("v", "a", "s", "vas")


@pytest.fixture(scope="module")
def apply(published):
  """The model's methods under jit."""

  @functools.cache
  def compiled(method):
    return jax.jit(
      lambda arguments, options: published.model.apply(
        {"params": published.params}, *arguments, method=method, **options
      )
    )

  return lambda method, *arguments, **options: compiled(method)(
    arguments, options
  )


@pytest.fixture(scope="module")
def encoded(published, apply):
  return apply("encode", published.inputs)


def feature(published, encoded, names):
  return published.model.apply(
    {"params": published.params}, encoded, names, method="feature"
  )


@pytest.mark.parametrize("names", ["t", "v", "a", "s", "va", "vs", "vas"])
def test_features_are_the_published_ones(published, encoded, names):
  actual, present = feature(published, encoded, names)
  assert_near(actual, published.golden[f"out/feat_{names}"])
  assert present.all()
  by_name = published.model.task(names)
  again, _ = feature(published, encoded, by_name)
  np.testing.assert_array_equal(again, actual)


@pytest.mark.parametrize("name", ["vision", "audio"])
def test_pooled_features_are_the_published_ones(published, encoded, name):
  expected = published.golden[f"out/pool_{name[0]}"]
  assert_near(encoded.pooled[name], expected)


def test_conditions_are_the_published_ones(published, encoded):
  expected = published.golden["out/condition_feats_vas"]
  actual, where = published.model.condition(encoded, "tvas")
  assert_near(actual, expected)
  assert where.all()
  v, a, s = (
    published.model.condition(encoded, names)[0] for names in ("v", "a", "s")
  )
  np.testing.assert_array_equal(jnp.concatenate([v, a, s], 1), actual)


def test_embeddings_are_those_of_the_heads(published, encoded):
  embeddings, where = encoded.embeddings, encoded.where
  assert embeddings.shape == (4, 4, 16) and where.all()
  for column, letter in enumerate("tvas"):
    unit = embeddings[:, column]
    unit = unit / jnp.linalg.norm(unit, axis=1, keepdims=True)
    assert_near(unit, published.golden[f"out/feat_{letter}"])


def test_clip_embeddings_are_resized_to_the_nearest(published):
  with np.load("tests/goldens/ckpt_adapt.npz", allow_pickle=False) as golden:
    tables = {key: golden[key] for key in golden if "nearest_index" in key}
  assert tables
  for key, expected in tables.items():
    stored, wanted = map(int, key.split("/")[-1].split("_to_"))
    np.testing.assert_array_equal(nearest_indices(stored, wanted), expected)


def test_a_mask_of_ones_changes_nothing(published, encoded, apply):
  masked = apply("encode", published.inputs, where=jnp.ones((4, 4), bool))
  for name, tokens in encoded.conditions.items():
    assert_near(masked.conditions[name], tokens, 1e-5)
  assert_near(masked.embeddings, encoded.embeddings, 1e-5)


def test_an_absent_modality_has_no_influence(published, encoded, apply):
  """Not on features, and not on what the text encoder reads."""
  where = jnp.ones((4, 4), bool).at[1, 2].set(False)
  other = dict(published.inputs)
  other["audio"] = other["audio"].copy()
  other["audio"][1] = 7.0
  for inputs in (published.inputs, other):
    masked = apply("encode", inputs, where=where)
    assert not masked.embeddings[1, 2].any()
    condition, seen = published.model.condition(masked, "va")
    logits = apply("match", inputs["text"], condition, seen)
    joint, present = feature(published, masked, "va")
    assert present.all()
    if inputs is published.inputs:
      first = (logits, joint)
  np.testing.assert_array_equal(logits, first[0])
  np.testing.assert_array_equal(joint, first[1])
  # It reads the frames as if there were no sound.
  frames, _ = published.model.condition(encoded, "v")
  alone = published.model.apply(
    {"params": published.params},
    published.inputs["text"][1:2],
    frames[1:2],
    method="match",
  )
  assert_near(logits[1], alone[0])
  # What is present elsewhere stays.
  condition, seen = published.model.condition(encoded, "va")
  whole = apply("match", published.inputs["text"], condition, seen)
  keep = np.array([0, 2, 3])
  assert_near(logits[keep], whole[keep])


def test_an_instance_with_nothing_has_no_feature(published, apply):
  where = jnp.ones((4, 4), bool).at[2].set(False)
  masked = apply("encode", published.inputs, where=where)
  for names in ("t", "va", "as"):
    value, present = feature(published, masked, names)
    assert present.tolist() == [True, True, False, True]
    assert np.isfinite(value).all() and not value[2].any()


def test_what_a_batch_lacks_is_absent_everywhere(published, encoded, apply):
  inputs = {name: published.inputs[name] for name in ("text", "audio")}
  fewer = apply("encode", inputs)
  assert fewer.embeddings.shape == (4, 2, 16)
  assert_near(fewer.embeddings, encoded.embeddings[:, np.array([0, 2])])
  with pytest.raises(ValueError, match=r"\['text', 'audio'\], and not"):
    published.model.condition(fewer, "tv")


@pytest.mark.slow
def test_a_further_modality_is_one_entry(published):
  """A table of numbers beside frames and sounds."""
  small = published.model
  model = small.clone(
    encoders={
      "text": small.encoders["text"].clone(depth=1),
      "table": encoders.TableEncoder(width=8, depth=1),
    },
    modalities={
      "text": encoders.Modality("text", conditions=False),
      "depth": encoders.Modality("table", "mean"),
      "subtitle": encoders.Modality("text"),
    },
    fusions=(("depth", "subtitle"),),
  )
  inputs = {
    "text": published.inputs["text"],
    "depth": jnp.ones((4, 6)),
    "subtitle": published.inputs["subtitle"],
  }

  @jax.jit
  def run(key):
    variables = model.init(key, inputs)
    encoded = model.apply(variables, inputs, method="encode")
    condition, where = model.condition(encoded, "td")
    logits = model.apply(
      variables, inputs["text"], condition, where, method="match"
    )
    return variables, condition, where, logits

  variables, condition, where, logits = run(jax.random.key(0))
  assert "fused_heads_depth_subtitle" in variables["params"]
  assert condition.shape == (4, 1, 32) and where.all()
  assert logits.shape == (4, 2)


def test_without_a_fused_head_features_are_averaged(published, encoded):
  value, _ = feature(published, encoded, ["audio", "subtitle"])
  a, s = (published.golden[f"out/feat_{letter}"] for letter in "as")
  mean = (a + s) / np.linalg.norm(a + s, axis=1, keepdims=True)
  assert_near(value, mean)


def test_words_can_be_guessed_with_and_without_a_condition(published, apply):
  ids = published.inputs["text"]
  causal = jnp.broadcast_to(jnp.tril(jnp.ones((12, 12), bool)), (4, 12, 12))
  plain = apply("token_logits", ids, where=causal)
  condition = jnp.ones((4, 3, 32))
  guided = apply("token_logits", ids, condition, where=causal)
  assert plain.shape == guided.shape == (4, 12, 218)
  assert not np.allclose(plain, guided)


def test_half_precision_is_near(published, encoded):
  model = published.model.clone(dtype=jnp.bfloat16)
  inputs = {name: published.inputs[name] for name in ("text", "vision")}
  embeddings, _ = jax.jit(model.apply)({"params": published.params}, inputs)
  assert embeddings.dtype == jnp.float32
  assert_near(embeddings, encoded.embeddings[:, :2], tolerance=0.03)


def test_training_is_random_by_key_and_finite(published):
  inputs = {name: published.inputs[name] for name in ("text", "vision")}

  @jax.jit
  def embed(seed):
    return published.model.apply(
      {"params": published.params},
      inputs,
      train=True,
      rngs={"dropout": jax.random.key(seed)},
    )[0]

  first, again, other = map(embed, (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert np.isfinite(other).all() and not np.allclose(first, other)


@pytest.mark.parametrize(
  "task,message",
  [
    ("tx", "'x' of the task 'tx' must be the first of one modality"),
    (["text", "depth"], r"unknown modalities \['depth'\]"),
    ("tt", "each once"),
  ],
)
def test_a_wrong_task_is_explained(published, task, message):
  with pytest.raises(ValueError, match=message):
    published.model.task(task)


def test_wrong_inputs_are_explained(published):
  def embed(inputs, **options):
    return jax.eval_shape(
      lambda: published.model.apply(
        {"params": published.params}, inputs, **options
      )
    )

  with pytest.raises(ValueError, match=r"no modality for the inputs"):
    embed({"depth": jnp.ones((4, 2))})
  with pytest.raises(ValueError, match=r"\[batch, modality\] = \[4, 4\]"):
    embed(published.inputs, where=jnp.ones((4, 3), bool))
  with pytest.raises(ValueError, match="got none"):
    embed({})
  with pytest.raises(ValueError, match=r"audio must be \[batch, clip, ...\]"):
    embed({"audio": jnp.ones((4, 2))})
  missing = {"text": published.inputs["text"]}
  with pytest.raises(ValueError, match="initialised with inputs of every"):
    jax.eval_shape(published.model.init, jax.random.key(0), missing)


def test_a_wrong_description_is_explained(published):
  def init(**options):
    model = published.model.clone(**options)
    jax.eval_shape(model.init, jax.random.key(0), published.inputs)

  with pytest.raises(ValueError, match="exactly the encoders"):
    init(encoders={"text": published.model.encoders["text"]})
  with pytest.raises(ValueError, match="caption must be one of"):
    init(caption="title")
  with pytest.raises(ValueError, match="in the order of"):
    init(fusions=(("audio", "vision"),))
  with pytest.raises(ValueError, match="pooling must be"):
    encoders.Modality("text", "last")
  with pytest.raises(ValueError, match="num_clips must be"):
    encoders.Modality("text", num_clips=0)
