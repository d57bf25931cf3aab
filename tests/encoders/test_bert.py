"""BERT: the published outputs, masks, conditions, and errors that help."""

import functools
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax.encoders import Bert
from pmrl_jax.weights.bert import bert_table
from pmrl_jax.weights.state_dict import to_params

PATH = pathlib.Path(__file__).parents[1] / "goldens" / "text_bert.npz"
# These keys compile much faster than the usual ones.
KEY = jax.random.key(0, impl="rbg")


@pytest.fixture(scope="module")
def golden():
  with np.load(PATH, allow_pickle=False) as file:
    return dict(file)


def make(golden, **fields):
  """The golden's BERT, without what it does not say."""
  config = json.loads(bytes(golden["cfg/json"]))
  return Bert(
    vocabulary_size=config["vocab_size"],
    width=config["hidden_size"],
    depth=config["num_hidden_layers"],
    num_heads=config["num_attention_heads"],
    mlp_width=config["intermediate_size"],
    max_length=config["max_position_embeddings"],
    **fields,
  )


@pytest.fixture(scope="module")
def params(golden):
  tensors = {
    key.removeprefix("param/"): value
    for key, value in golden.items()
    if key.startswith("param/")
  }
  loaded = to_params(tensors, bert_table(make(golden)))
  assert not loaded.missing and not loaded.unexpected
  return jax.tree.map(jnp.asarray, loaded.params)


@pytest.fixture(scope="module")
def inputs(golden):
  """Ids, masks and a condition: what the tests mostly call with."""
  return {
    "ids": jnp.asarray(golden["in/input_ids"]),
    "where": jnp.asarray(golden["in/attention_mask"] > 0),
    "condition": jnp.asarray(golden["in/encoder_hidden_states"]),
  }


@functools.partial(jax.jit, static_argnames=("module", "train"))
def _encode(module, params, inputs, key, train):
  rngs = {"dropout": key} if train else None
  return module.apply({"params": params}, **inputs, train=train, rngs=rngs)


def encode(module, params, inputs, *, train=False, seed=0):
  return _encode(module, params, inputs, jax.random.fold_in(KEY, seed), train)


def assert_golden(value, expected):
  value = np.asarray(value)
  assert value.shape == expected.shape
  np.testing.assert_allclose(
    value, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )


@pytest.mark.parametrize("case", ["a_text_only", "b_cross"])
def test_hidden_states_are_the_published_ones(golden, params, inputs, case):
  inputs = dict(inputs)
  if case == "a_text_only":
    del inputs["condition"]
  hidden, state = make(golden).apply(
    {"params": params}, **inputs, train=False, mutable=["intermediates"]
  )
  assert_golden(hidden, golden[f"out/{case}/last_hidden_state"])
  traces = state["intermediates"]
  assert_golden(traces["hidden"][0], golden[f"out/{case}/hidden0"])
  for layer, trace in enumerate(traces["blocks"]["hidden"][0]):
    assert_golden(trace, golden[f"out/{case}/hidden{layer + 1}"])


def test_captioning_is_the_published_one(golden, params, inputs):
  module = make(golden)
  inputs = {
    "ids": jnp.asarray(golden["in/c_caption/input_ids"]),
    "where": jnp.asarray(golden["in/c_caption/attention_mask_3d"] > 0),
    "condition": inputs["condition"],
  }
  hidden = encode(module, params, inputs)
  assert_golden(hidden, golden["out/c_caption/sequence_output"])
  logits = module.apply({"params": params}, hidden, method="logits")
  assert_golden(logits, golden["out/c_caption/logits"])
  labels = golden["in/c_caption/labels"]
  row, column = np.nonzero(labels != -100)
  chosen = jax.nn.log_softmax(logits)[row, column, labels[row, column]]
  np.testing.assert_allclose(
    -chosen.mean(), golden["out/c_caption/loss"], rtol=1e-6
  )


@pytest.mark.slow
def test_looking_up_the_padding_teaches_its_embedding_nothing(
  golden, params, inputs
):
  module = make(golden)
  expected = encode(module, params, inputs)

  @jax.grad
  def encoding(params):
    hidden = module.apply({"params": params}, **inputs, train=False)
    return (hidden**2 * jnp.arange(32.0).reshape(1, 1, -1)).sum()

  @jax.grad
  def decoding(params):
    logits = module.apply({"params": params}, expected, method="logits")
    return jax.nn.log_softmax(logits)[..., 5].sum()

  words = jax.jit(encoding)(params)["word_embeddings"]
  used = np.unique(inputs["ids"])
  assert 0 in used
  others = np.setdiff1d(np.arange(len(words)), used)
  assert not words[0].any() and not words[others].any()
  assert np.abs(words[used[1:]]).max(axis=1).min() > 0
  # As a row of the decoder it is a word like any other.
  assert jax.jit(decoding)(params)["word_embeddings"][0].any()


def test_a_padded_text_is_encoded_like_the_bare_one(golden, params, inputs):
  module = make(golden)
  padded = encode(module, params, inputs)[2:, :7]
  bare = {"ids": inputs["ids"][2:, :7], "condition": inputs["condition"][2:]}
  chex.assert_trees_all_close(
    padded, encode(module, params, bare), rtol=0, atol=1e-5
  )


def test_a_causal_text_does_not_depend_on_what_follows(golden, params, inputs):
  module = make(golden)
  causal = jnp.broadcast_to(jnp.tri(14, dtype=bool)[None], (3, 14, 14))
  inputs = inputs | {"where": causal}
  changed = inputs | {"ids": inputs["ids"].at[:, 9:].set(7)}
  one, other = (encode(module, params, i) for i in (inputs, changed))
  chex.assert_trees_all_close(one[:, :9], other[:, :9], atol=1e-6)
  assert jnp.abs(one[:, 9:] - other[:, 9:]).max() > 0.1


def test_masked_tokens_of_the_condition_are_not_seen(golden, params, inputs):
  module = make(golden)
  seen = jnp.broadcast_to(jnp.arange(19)[None] < 11, (3, 19))
  masked = encode(module, params, inputs | {"condition_where": seen})
  cut = inputs | {"condition": inputs["condition"][:, :11]}
  chex.assert_trees_all_close(masked, encode(module, params, cut), atol=1e-5)


@pytest.mark.parametrize("reads", [(0, 1, 0), (1, 0, 1), (0, 0, 0)])
def test_texts_that_share_a_condition_read_it_as_their_own(
  golden, params, inputs, reads
):
  module = make(golden)
  ids, where = (
    jnp.concatenate([inputs[name], inputs[name][::-1]])
    for name in ("ids", "where")
  )
  # Two groups of three texts.
  conditions = inputs["condition"][jnp.array([0, 1, 2, 0])]
  conditions = conditions[: 2 * (max(reads) + 1)]
  seen = jnp.arange(19)[None] < jnp.array([[19], [11], [7], [15]])
  seen = seen[: len(conditions)]
  shared = {"condition": conditions, "condition_where": seen}
  own = jnp.array(
    [group * (max(reads) + 1) + read for group in (0, 1) for read in reads]
  )

  def value(params, options, **more):
    inputs = {"ids": ids, "where": where, **options, **more}
    y = module.apply({"params": params}, **inputs, train=False)
    return jnp.mean(y * jnp.arange(y.size).reshape(y.shape) / y.size), y

  grad = functools.partial(jax.value_and_grad, has_aux=True)
  chex.assert_trees_all_close(
    grad(functools.partial(value, reads=reads))(params, shared),
    grad(value)(params, {name: x[own] for name, x in shared.items()}),
    atol=1e-5,
  )


def test_a_text_without_any_visible_token_stays_finite(golden, params, inputs):
  module = make(golden)
  nothing = inputs | {"where": jnp.zeros((3, 14), bool)}
  everything = inputs | {"where": jnp.ones((3, 14), bool)}
  # Adding 10,000 to a score costs it some digits.
  chex.assert_trees_all_close(
    encode(module, params, nothing),
    encode(module, params, everything),
    atol=0.02,
  )


def test_dropout_depends_on_the_key_and_only_in_training(
  golden, params, inputs
):
  module = make(golden)
  one = encode(module, params, inputs, train=True, seed=1)
  other = encode(module, params, inputs, train=True, seed=2)
  chex.assert_tree_all_finite(one)
  chex.assert_trees_all_equal(
    one, encode(module, params, inputs, train=True, seed=1)
  )
  assert jnp.abs(one - other).max() > 1e-2
  still = make(golden, dropout_rate=0.0, attention_dropout_rate=0.0)
  chex.assert_trees_all_close(
    encode(still, params, inputs, train=True),
    encode(still, params, inputs),
    atol=1e-6,
  )


@pytest.mark.slow
def test_all_ways_to_compute_give_the_same_gradients(golden, params, inputs):
  # Two layers compile faster than three.
  params = params | {"blocks": jax.tree.map(lambda x: x[:2], params["blocks"])}

  def gradients(**fields):
    module = make(golden, **fields).clone(depth=2)

    def total(params, condition):
      hidden = module.apply(
        {"params": params},
        **inputs | {"condition": condition},
        train=True,
        rngs={"dropout": KEY},
      )
      return (hidden * jnp.sin(jnp.arange(32.0)).reshape(1, 1, -1)).mean()

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1)))(
      params, inputs["condition"]
    )

  chex.assert_trees_all_close(
    gradients(remat="dots"),
    gradients(remat="full", scan_layers=False),
    atol=1e-6,
    rtol=1e-4,
  )


def test_bfloat16_computes_close_to_float32(golden, params, inputs):
  half = make(golden, dtype=jnp.bfloat16)
  hidden = encode(half, params, inputs)
  assert hidden.dtype == jnp.bfloat16
  logits = half.apply({"params": params}, hidden, method="logits")
  assert logits.dtype == jnp.float32
  expected = encode(make(golden), params, inputs)
  difference = jnp.abs(hidden.astype(jnp.float32) - expected)
  assert difference.max() < 0.05 * jnp.abs(expected).max()


def test_init_makes_all_parameters_whatever_the_call(golden, params, inputs):
  module = make(golden)
  shapes = jax.tree.map(jnp.shape, params)

  def init(module, *names):
    def make_params():
      return module.init(KEY, **{n: inputs[n] for n in names}, train=False)

    return make_params

  for names in (("ids",), ("ids", "where", "condition")):
    made = jax.eval_shape(init(module, *names))
    assert jax.tree.map(jnp.shape, made["params"]) == shapes
  made = jax.jit(init(module, "ids"))()["params"]
  assert 0.018 < made["blocks"]["mlp_in"]["kernel"].std() < 0.022
  text_only = make(golden, cross_attention=False)
  made = jax.eval_shape(init(text_only, "ids"))["params"]
  assert "cross_attention" not in made["blocks"]


@pytest.mark.parametrize(
  ("change", "error", "message"),
  [
    ({"ids": jnp.zeros((3, 4))}, TypeError, "integer token ids, got float32"),
    ({"ids": jnp.zeros(4, int)}, ValueError, r"\[batch, length\]"),
    ({"ids": jnp.zeros((3, 81), int)}, ValueError, "80 tokens.*got 81"),
    ({"where": jnp.ones((3, 14), int)}, TypeError, "must be bool, got int32"),
    (
      {"where": jnp.ones((3, 9), bool)},
      ValueError,
      r"where must be \[3, 14\] or \[3, 14, 14\], got \[3, 9\]",
    ),
    ({"condition": jnp.ones((3, 5, 31))}, ValueError, r"any, 32\], got \[3, 5"),
    (
      {"condition_where": jnp.ones((3, 5), bool)},
      ValueError,
      r"condition_where must be \[3, 19\]",
    ),
    (
      {"condition": None, "condition_where": jnp.ones((3, 5), bool)},
      ValueError,
      "without a condition",
    ),
    ({"reads": (0, 1, 0)}, ValueError, r"conditions, tokens, width\] = \[2"),
    ({"reads": (0, 0)}, ValueError, "groups of len\\(reads\\) = 2, got 3"),
    ({"reads": (0, 2, 0)}, ValueError, r"none left out, got \[0, 2, 0\]"),
    ({"reads": ()}, ValueError, r"none left out, got \[\]"),
  ],
)
def test_wrong_inputs_are_explained(
  golden, params, inputs, change, error, message
):
  with pytest.raises(error, match=message):
    make(golden).apply({"params": params}, **inputs | change, train=False)


def test_wrong_options_are_explained(golden, inputs):
  with pytest.raises(ValueError, match="width 32 and 5 heads"):
    make(golden).clone(num_heads=5).init(KEY, inputs["ids"], train=False)
  with pytest.raises(ValueError, match="cross_attention=True"):
    make(golden, cross_attention=False).init(KEY, **inputs, train=False)
