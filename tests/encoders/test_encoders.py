"""Encoders: shapes, masks, dtypes, dropout, and errors that help."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pmrl_jax import encoders

SMALL = {"width": 16, "depth": 1, "num_heads": 2, "dropout_rate": 0.5}
KEY = jax.random.key(0)


def _inputs(shape):
  return jax.random.uniform(KEY, shape, minval=-1.0)


CASES = {
  "image": (
    lambda **k: encoders.VisionTransformer(patch_size=2, **SMALL, **k),
    _inputs((3, 4, 6, 1)),
  ),
  "speech": (
    lambda **k: encoders.SpectrogramTransformer(
      sample_rate=8000, max_masked_mels=8, max_masked_frames=8, **SMALL, **k
    ),
    _inputs((3, 1000)),
  ),
  "text": (
    lambda **k: encoders.CharacterTransformer(vocabulary_size=9, **SMALL, **k),
    jnp.array([[2, 3, 4, 0, 0], [5, 6, 7, 8, 2], [3, 0, 0, 0, 0]]),
  ),
  "pen": (
    lambda **k: encoders.TrajectoryTransformer(**SMALL, **k),
    _inputs((3, 8, 2)),
  ),
  "table": (
    lambda **k: encoders.TableEncoder(width=16, depth=1, dropout_rate=0.5, **k),
    _inputs((3, 7)),
  ),
}


@pytest.fixture(params=CASES, name="case", scope="module")
def _case(request):
  make, inputs = CASES[request.param]
  module = make()
  variables = jax.jit(module.init, static_argnames="train")(
    KEY, inputs, train=False
  )
  return make, module, variables, inputs


def test_encoder_gives_one_finite_vector_per_input(case):
  _, module, variables, inputs = case
  vectors = module.apply(variables, inputs, train=False)
  chex.assert_shape(vectors, (3, 16))
  chex.assert_tree_all_finite(vectors)


def test_encoder_treats_every_instance_alone(case):
  _, module, variables, inputs = case
  together = module.apply(variables, inputs, train=False)
  alone = module.apply(variables, inputs[1:2], train=False)
  chex.assert_trees_all_close(together[1:2], alone, atol=1e-5)


def test_dropout_depends_on_the_key_and_only_in_training(case):
  _, module, variables, inputs = case

  def apply(seed, train):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply(variables, inputs, train=train, rngs=rngs)

  chex.assert_trees_all_equal(apply(1, False), apply(2, False))
  chex.assert_trees_all_equal(apply(1, True), apply(1, True))
  assert jnp.abs(apply(1, True) - apply(2, True)).max() > 1e-3


def test_bfloat16_computes_close_to_float32_with_float32_parameters(case):
  make, module, variables, inputs = case
  half = make(dtype=jnp.bfloat16)
  vectors = half.apply(variables, inputs, train=False)
  assert vectors.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves(half.init(KEY, inputs, train=False)):
    assert leaf.dtype == jnp.float32
  chex.assert_trees_all_close(
    vectors.astype(jnp.float32),
    module.apply(variables, inputs, train=False),
    atol=0.1,
  )


def test_padding_characters_do_not_change_a_text():
  module = CASES["text"][0]()
  short = jnp.array([[2, 3, 4, 0, 0]])
  variables = module.init(KEY, short, train=False)
  embedding = variables["params"]["character_embedding"]["embedding"]
  changed = jax.tree.map(lambda x: x, variables)
  changed["params"]["character_embedding"]["embedding"] = embedding.at[0].add(
    100.0
  )
  chex.assert_trees_all_close(
    module.apply(variables, short, train=False),
    module.apply(changed, short, train=False),
    atol=1e-6,
  )


def test_an_empty_text_gives_zeros():
  module = CASES["text"][0]()
  empty = jnp.zeros((1, 5), jnp.int32)
  vectors = module.apply(
    module.init(KEY, empty, train=False), empty, train=False
  )
  chex.assert_trees_all_equal(vectors, jnp.zeros((1, 16)))


def test_speech_embedding_does_not_depend_on_loudness():
  module = CASES["speech"][0]()
  # Noise is far above the floor of the logarithm in every mel band.
  noise = _inputs((1, 1000))
  variables = module.init(KEY, noise, train=False)
  chex.assert_trees_all_close(
    module.apply(variables, noise, train=False),
    module.apply(variables, 0.25 * noise, train=False),
    atol=0.01,
  )


def _numpy_log_mel(waveform, sample_rate, num_mels, floor):
  """The textbook, frame by frame and filter by filter, in float64."""
  frame, hop, fft = 200, 80, 256
  top = 2595 * np.log10(1 + sample_rate / 2 / 700)
  edges = 700 * (10 ** (np.linspace(0, top, num_mels + 2) / 2595) - 1)
  rows = []
  for start in range(0, len(waveform) - frame + 1, hop):
    n = np.arange(frame)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / frame)
    power = np.abs(np.fft.rfft(waveform[start : start + frame] * window, fft))
    power **= 2
    row = []
    for low, mid, high in zip(edges, edges[1:], edges[2:]):
      total = 0.0
      for k, value in enumerate(power):
        mel, lo, mi, hi = (
          np.log10(1 + f / 700) for f in (k * sample_rate / fft, low, mid, high)
        )
        total += value * max(
          0, min((mel - lo) / (mi - lo), (hi - mel) / (hi - mi))
        )
      row.append(np.log(total + floor))
    rows.append(row)
  return np.array(rows)


def test_log_mel_spectrogram_equals_the_float64_oracle():
  waveform = np.random.default_rng(0).uniform(-1, 1, 900)
  result = encoders.log_mel_spectrogram(
    jnp.asarray(waveform, jnp.float32), sample_rate=8000, num_mels=20
  )
  expected = _numpy_log_mel(waveform, 8000, 20, floor=1e-5)
  np.testing.assert_allclose(result, expected, atol=2e-4)


def test_log_mel_spectrogram_finds_the_pitch_of_a_tone():
  seconds = np.arange(8000) / 8000
  pitches = np.array([[300.0], [1000.0], [3000.0]])  # Hz
  tones = np.sin(2 * np.pi * pitches * seconds)
  spectrum = encoders.log_mel_spectrogram(jnp.asarray(tones), sample_rate=8000)
  loudest = spectrum.mean(axis=1).argmax(axis=-1)
  top = 2595 * np.log10(1 + 4000 / 700)
  mels = [
    2595 * np.log10(1 + f / 700) * 41 / top - 1 for f in (300, 1000, 3000)
  ]
  np.testing.assert_allclose(loudest, mels, atol=1.0)


def test_spectrogram_masks_differ_between_recordings():
  module = encoders.SpectrogramTransformer(
    sample_rate=8000, width=8, depth=0, num_heads=1, max_masked_frames=90
  )
  same = jnp.broadcast_to(_inputs((1, 8000)), (8, 8000))
  variables = module.init(KEY, same, train=False)
  vectors = module.apply(variables, same, train=True, rngs={"dropout": KEY})
  assert len(np.unique(np.asarray(vectors)[:, 0])) > 1


def _model():
  return encoders.MultimodalEncoder(
    encoders={name: CASES[name][0]() for name in ("pen", "image", "text")},
    dim=5,
  )


def _batch():
  return {name: CASES[name][1] for name in ("image", "text", "pen")}


def test_multimodal_embeddings_are_stacked_in_the_order_of_the_encoders():
  model, batch = _model(), _batch()
  variables = model.init(KEY, batch)
  embeddings, where = model.apply(variables, batch)
  chex.assert_shape(embeddings, (3, 3, 5))
  assert where.all() and where.dtype == bool
  changed = batch | {"pen": batch["pen"] + 1}
  difference = jnp.abs(model.apply(variables, changed)[0] - embeddings)
  np.testing.assert_array_equal(
    difference.max(axis=(0, 2)) > 0, [True, False, False]
  )


def test_absent_modality_embeds_to_zero_and_gets_no_gradient():
  model, batch = _model(), _batch()
  variables = model.init(KEY, batch)
  where = jnp.ones((3, 3), bool).at[:, 1].set(False)
  embeddings, mask = model.apply(variables, batch, where=where)
  chex.assert_trees_all_equal(mask, where)
  assert not embeddings[:, 1].any() and embeddings[:, 0].any()
  gradient = jax.jit(
    jax.grad(lambda v: (model.apply(v, batch, where=where)[0] ** 2).sum())
  )(variables)["params"]
  assert not any(x.any() for x in jax.tree.leaves(gradient["encoders_image"]))
  assert any(x.any() for x in jax.tree.leaves(gradient["encoders_pen"]))


def test_any_module_can_be_an_encoder():
  class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
      return nn.Dense(3)(x.mean(axis=1))

  model = encoders.MultimodalEncoder(encoders={"a": Mean(), "b": Mean()}, dim=2)
  batch = {"a": _inputs((4, 5, 6)), "b": _inputs((4, 7, 2))}
  embeddings, _ = model.apply(model.init(KEY, batch), batch)
  chex.assert_shape(embeddings, (4, 2, 2))


@pytest.mark.parametrize(
  ("name", "inputs", "message"),
  [
    ("image", jnp.zeros((3, 4, 6)), r"\[batch, height, width, channel\]"),
    ("image", jnp.zeros((3, 5, 6, 1)), "5x6 pixels and patch_size 2"),
    ("speech", jnp.zeros((3, 9, 9)), r"\[batch, samples\]"),
    ("speech", jnp.zeros((3, 99)), "one frame of 200 samples"),
    ("text", jnp.zeros((3,), jnp.int32), r"\[batch, characters\]"),
    ("pen", jnp.zeros((3, 4)), r"\[batch, point, coordinate\]"),
    ("table", jnp.zeros((3,)), r"\[batch, feature\]"),
  ],
)
def test_wrong_input_shape_is_explained(name, inputs, message):
  with pytest.raises(ValueError, match=message):
    CASES[name][0]().init(KEY, inputs, train=False)


def test_wrong_options_are_explained():
  with pytest.raises(TypeError, match="integer character ids, got float32"):
    CASES["text"][0]().init(KEY, jnp.zeros((3, 4)), train=False)
  odd = encoders.TrajectoryTransformer(width=10, depth=1, num_heads=3)
  with pytest.raises(ValueError, match="width 10 and 3 heads"):
    odd.init(KEY, jnp.zeros((1, 4, 2)), train=False)
  with pytest.raises(ValueError, match="lower num_mels"):
    encoders.log_mel_spectrogram(
      jnp.zeros(8000), sample_rate=8000, num_mels=200
    )


def test_mismatch_of_encoders_and_inputs_is_explained():
  model, batch = _model(), _batch()
  with pytest.raises(
    ValueError, match=r"no input for the modalities \['pen'\]"
  ):
    model.init(KEY, {k: v for k, v in batch.items() if k != "pen"})
  with pytest.raises(
    ValueError, match=r"no encoder for the modalities \['x'\]"
  ):
    model.init(KEY, batch | {"x": batch["pen"]})
  with pytest.raises(ValueError, match=r"\[3, 3\], got \[3, 2\]"):
    model.init(KEY, batch, where=jnp.ones((3, 2), bool))
