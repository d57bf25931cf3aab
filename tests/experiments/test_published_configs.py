"""The configs of the published model: at full size, and shrunken to run."""

import importlib
import json
import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import build, evaluate, train
from experiments.data_sets import Data
from experiments.models import build_model
from experiments.objectives import (
  build_objective,
  build_optimizer,
  without_gradient,
)
from pmrl_jax import training
from pmrl_jax.data import Spec, decoding, evaluation_batches
from pmrl_jax.data.manifest import build as manifest_build
from pmrl_jax.data.manifest import read_manifest
from tests.experiments.tiny_published import tiny_model

CLIP = (
  pathlib.Path(__file__).parents[1] / "data" / "fixtures" / "mdn_rabbit320.mp4"
)
# Steps, as (rows // 64) * epochs.
STEPS = {
  "pmrl_vast150k": 11_730,
  "finetune_msrvtt": 504,
  "finetune_didemo": 5_240,
  "finetune_activitynet": 3_120,
  "finetune_vatex": 1_015,
  "finetune_audiocaps": 7_780,
  "finetune_clotho": 590,
}
WORDS = "a b c d e white rabbit on wood in the dark toy".split()


def get_config(name):
  return importlib.import_module(f"experiments.configs.{name}").get_config()


class Described:
  """A split of which only the shapes are known."""

  def __init__(self, config):
    inputs = config.data.inputs
    shapes = {
      "text": (inputs.text.length,),
      "vision": (inputs.vision.num_frames, 224, 224, 3),
      "audio": (inputs.audio.num_clips, 1024, 64),
      "subtitle": (inputs.subtitle.length,),
    }
    self.modalities = config.data.modalities
    self.spec = {
      name: Spec(shape, np.dtype(np.int32 if len(shape) == 1 else np.float32))
      for name, shape in shapes.items()
      if name in self.modalities
    }


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_are_the_published_ones(name):
  config = get_config(name)
  assert config.steps == STEPS[name]
  assert config.optimizer.warmup_steps == pytest.approx(0.1 * STEPS[name])
  assert config.evaluation.every == config.checkpoint.every == STEPS[name] // 10
  config.steps = 200
  assert config.optimizer.warmup_steps == 20
  assert config.evaluation.every == 20


def test_one_key_sets_the_tokenizer_of_all_texts():
  config = get_config("finetune_msrvtt")
  config.data.vocabulary = "mine.txt"
  assert config.data.inputs.text.tokenizer == "mine.txt"
  assert config.data.inputs.subtitle.tokenizer == "mine.txt"


@pytest.mark.parametrize("name", ["published", *STEPS])
def test_the_full_size_model_and_a_step_of_it_fit_together(name):
  config = get_config(name)
  data = Data(
    Described(config),
    Described(config),
    {},
    None,
    {m: 30522 for m in ("text", "subtitle") if m in config.data.modalities},
  )
  model = build_model(config, data)
  optimizer, _ = build_optimizer(config, model)
  batch = {
    "inputs": {
      modality: jax.ShapeDtypeStruct((8, *spec.shape), spec.dtype)
      for modality, spec in data.train.spec.items()
    },
    "where": jax.ShapeDtypeStruct((8, len(data.train.modalities)), bool),
    "ids": jax.ShapeDtypeStruct((8,), jnp.int32),
  }
  key = jax.random.key(0)
  params = jax.eval_shape(model.init, key, batch["inputs"])["params"]
  state = jax.eval_shape(lambda p: training.create_state(p, optimizer), params)
  count = sum(leaf.size for leaf in jax.tree.leaves(params))
  has_vision = "vision" in data.train.modalities
  assert 1.2e9 < count < 1.3e9 if has_vision else 2.2e8 < count < 2.4e8
  if has_vision:
    clips = params["adapters_vision"]["clip_embedding"]
    assert clips.shape == (config.data.inputs.vision.num_frames, 768)
  # The bias of the words has no gradient, hence no moments in memory.
  kept = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
  assert (30522,) not in kept
  if name in ("published", "finetune_msrvtt"):
    loss, terms = jax.eval_shape(
      build_objective(config, model), params, batch, key
    )
    assert loss.shape == () and {"alignment", "matching"} <= set(terms)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  """Five rows to train on and five held out, all of them of one clip."""
  folder = tmp_path_factory.mktemp("media")
  shutil.copy(CLIP, folder / "clip.mp4")
  special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  (folder / "vocab.txt").write_text("\n".join([*special, *WORDS]))
  for split in ("train", "test"):
    rows = [
      {
        "id": f"{split} {number}",
        "video": "clip.mp4",
        "audio": None if number == 1 else "clip.mp4",
        "text": [WORDS[number], f"{WORDS[number]} rabbit"],
        "subtitle": None if number == 2 else f"on {WORDS[number + 1]}",
      }
      for number in range(5)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{split}.jsonl").write_text(lines)
  return folder


@pytest.fixture
def one_device(monkeypatch):
  """Programs run on one device, which compiles faster than eight."""
  mesh = training.make_mesh(devices=jax.devices()[:1])
  monkeypatch.setattr(training, "make_mesh", lambda *_: mesh)


def shrink(config, folder):
  """Makes a config small; what it says of data and objective stays."""
  changes = {
    "steps": 2,
    "batch_size": 4,
    "log_every": 1,
    "data.train": str(folder / "train.jsonl"),
    "data.test": str(folder / "test.jsonl"),
    "data.vocabulary": str(folder / "vocab.txt"),
    "data.inputs.text.length": 8,
    "data.inputs.subtitle.length": 8,
    "data.inputs.vision.num_frames": 2,
    "data.inputs.vision.resolution": 28,
    "data.inputs.audio.num_rows": 64,
    "data.test_inputs.vision.num_frames": 3,
    **tiny_model(depth=1),
    "evaluation.every": 2,
    "evaluation.batch_size": 4,
    "evaluation.rerank": 3,
    "checkpoint.every": 2,
    "pipeline.num_threads": 1,
  }
  for name, value in changes.items():
    config.update_from_flattened_dict({name: value})
  return config


@pytest.mark.parametrize(
  "name",
  [
    pytest.param(
      name, marks=() if name == "finetune_clotho" else pytest.mark.slow
    )
    for name in STEPS
  ],
)
def test_a_shrunken_config_trains_and_ranks_again(
  name, media, one_device, tmp_path, capfd
):
  config = shrink(get_config(name), media)
  folder = tmp_path / "run"
  train.train(config, folder)
  task = (tuple(config.evaluation.tasks) or tuple(config.matching.tasks))[0]
  summary = json.loads((folder / "summary.json").read_text())
  assert set(summary["reranked"]) == {f"text->{task[1:]}", f"{task[1:]}->text"}
  scores = summary["reranked"][f"text->{task[1:]}"]
  assert scores["num_queries"] == (8 if task == "ta" else 10)
  assert scores["num_candidates"] == 3
  assert 0 <= summary["reranked_R@1"] == scores["R@1"] <= 1
  assert "re-ranked" in capfd.readouterr().out
  assert "Re-ranked retrieval" in (folder / "report.html").read_text()
  rows = training.read_metrics(folder)
  assert any("matching" in row for row in rows)
  assert any("reranked_R@1" in row for row in rows)
  if name == "finetune_msrvtt":
    evaluate.evaluate(folder, "best", tmp_path / "again")
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["reranked"] == summary["reranked"]
    # The same parameters, as what another run would start from.
    config.init_from = str(folder)
    evaluate.evaluate_start(config, tmp_path / "start")
    start = json.loads((tmp_path / "start" / "summary.json").read_text())
    assert start["reranked"] == again["reranked"] and start["steps"] == 0
    assert (tmp_path / "start" / "report.html").exists()


@pytest.mark.slow
def test_what_has_no_gradient_follows_from_the_tasks(media):
  """The derived patterns are those of the parameters that do not matter."""
  config = shrink(get_config("finetune_msrvtt"), media)
  config.precision = "float32"
  config.matching.tasks = ("tv",)
  for encoder in config.model.encoders.values():
    encoder.remat = "none"
  config.model.encoders.vision.head_width = 3
  config.model.encoders.vision.drop_path_rate = 0.0
  config.model.encoders.audio.layerdrop_rate = 0.0
  data = build.load_data(config)
  model = build_model(config, data)
  batch = random_batch(data.train.spec)
  key = jax.random.key(0)
  params = jax.jit(model.init)(key, batch["inputs"])["params"]
  objective = build_objective(config, model)
  gradient = jax.jit(jax.grad(lambda p: objective(p, batch, key)[0]))(params)
  names = {
    "/".join(str(part.key) for part in path): np.any(leaf)
    for path, leaf in jax.tree.leaves_with_path(gradient)
  }
  patterns = without_gradient(model, **config.matching)
  kept = {n for n in names if any(re.search(p, n) for p in patterns)}
  assert kept == {name for name, moves in names.items() if not moves}
  assert {n.split("/")[0] for n in kept} == {
    "adapters_audio",
    "adapters_subtitle",
    "encoders_text",
    "encoders_vision",
    "fused_heads_vision_audio",
    "fused_heads_vision_audio_subtitle",
    "fused_heads_vision_subtitle",
    "temperature",
  }


def test_every_device_can_have_a_pool_of_its_own(media):
  config = shrink(get_config("finetune_msrvtt"), media)
  config.matching.num_pools, config.route = -1, "compiler"
  data = build.load_data(config)
  model = build_model(config, data)
  key, batch = jax.random.key(0), random_batch(data.train.spec)
  params = jax.eval_shape(model.init, key, batch["inputs"])["params"]
  mesh = training.make_mesh()
  assert mesh.size == 8
  with pytest.raises(ValueError, match="divide the batch, got 8 for 4"):
    jax.eval_shape(build_objective(config, model, mesh), params, batch, key)
  jax.eval_shape(build_objective(config, model), params, batch, key)


def test_joint_features_have_a_gradient_by_the_pairwise_term(media):
  config = shrink(get_config("finetune_msrvtt"), media)
  model = build_model(config, build.load_data(config))
  options = {"tasks": ["tva"], "matching_weight": 0.0, "pairwise_weight": 1.0}
  assert set(without_gradient(model, **options)) == {
    "^encoders_text/predictions/",
    "^encoders_text/blocks/cross_attention/",
    "^matching_head/",
    "^adapters_vision/",
    "^adapters_audio/",
    "^adapters_subtitle/",
    "^fused_heads_vision_subtitle/",
    "^fused_heads_vision_audio_subtitle/",
  }


def test_layers_are_a_loop_but_where_few_of_them_are_to_be_fast(media):
  config = shrink(get_config("finetune_msrvtt"), media)
  encoders = config.model.encoders
  encoders.vision.depth, encoders.audio.depth, encoders.text.depth = 40, 12, 2
  assert {encoder.remat for encoder in encoders.values()} == {"full"}
  data = build.load_data(config)

  def loops(*platform):
    built = build_model(config, data, *platform).encoders
    return {name: encoder.scan_layers for name, encoder in built.items()}

  assert loops() == {"text": True, "vision": True, "audio": True}
  for encoder in encoders.values():
    encoder.remat = "none"
  assert loops() == {"text": False, "vision": True, "audio": False}
  assert loops("cpu") == loops()
  assert set(loops("tpu").values()) == set(loops("gpu").values()) == {True}
  encoders.vision.scan_layers, encoders.text.scan_layers = False, True
  assert loops() == {"text": True, "vision": False, "audio": False}
  del encoders.audio.depth, encoders.audio.remat  # 12 and "none" by default
  assert loops()["audio"] is False


def random_batch(spec):
  rng = np.random.default_rng(0)
  inputs = {
    name: rng.integers(4, 15, (4, *each.shape)).astype(each.dtype)
    if each.dtype.kind == "i"
    else rng.normal(size=(4, *each.shape)).astype(each.dtype)
    for name, each in spec.items()
  }
  where = np.ones((4, len(inputs)), bool)
  return {"inputs": inputs, "where": where, "ids": np.arange(4)}


@pytest.mark.parametrize(
  "changes,message",
  [
    ({"data.vocabulary": "nowhere.txt"}, "vocab.txt of bert-base-uncased"),
    ({"model.kind": "clip"}, "model.kind must be one of"),
    ({"model.heads": 3}, "unknown fields ..heads.*pmrl has"),
    ({"model.encoders.vision.kind": "vit"}, "kind must be one of .'ast'"),
    ({"model.encoders.vision.wide": 3}, "unknown fields ..wide"),
    ({"model.encoders.text.kind": "ast"}, "unknown fields|a bert does"),
    ({"model.modalities.vision.frames": 3}, "unknown fields ..frames"),
    ({"model.modalities.vision.encoder": "sight"}, "no encoder 'sight'"),
    ({"model.caption": "title"}, "not the captions, 'title'"),
    ({"data.columns.vision": "film"}, "columns .'film'."),
    ({"data.test_inputs.depth": {"x": 1}}, "test_inputs changes .'depth'"),
    ({"matching.tasks": ()}, "must name one task or more"),
    ({"matching.tasks": ("tx",)}, "'x' of the task 'tx'"),
    ({"matching.matching_weight": -1.0}, "must not be negative"),
    ({"evaluation.rerank": -1}, "evaluation.rerank must be 0"),
    ({"evaluation.tasks": ("va",)}, "evaluation.tasks: a task must name"),
    ({"model.encoders.text.vocabulary_size": 7}, "the tokenizer has 18 ids"),
  ],
)
def test_a_mistake_is_explained(media, changes, message):
  config = shrink(get_config("finetune_msrvtt"), media)
  with config.unlocked(), config.ignore_type():
    for name, value in changes.items():
      config.update_from_flattened_dict({name: value})
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    data = build.load_data(config)
    model = build_model(config, data)
    build_optimizer(config, model)
    build._reranker(config, model, training.make_mesh())
    build_objective(config, model)


def test_only_the_published_model_matches_texts(tiny, media):
  config = shrink(get_config("finetune_msrvtt"), media)
  model = build_model(config, build.load_data(config))
  del config["matching"]
  with pytest.raises(ValueError, match="goes with config.model.kind"):
    build_objective(config, model)
  tiny.matching = {"tasks": ("ab",)}
  with pytest.raises(ValueError, match="got the kind 'multimodal'"):
    build_objective(tiny, None)


@pytest.mark.shared
@pytest.mark.slow
def test_real_media_train_and_are_ranked_again(
  media, one_device, tmp_path, shared
):
  folder = shared("data/media/annotations.json").parent
  config = shrink(get_config("finetune_didemo"), media)
  rows = write_rows(folder, tmp_path / "rows.jsonl")
  config.data.train = config.data.test = str(tmp_path / "rows.jsonl")
  config.data.root = str(folder)
  train.train(config, tmp_path / "run")
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  scores = summary["reranked"]["text->va"]
  assert scores["num_queries"] == scores["num_gallery"] == len(rows) == 11
  assert not (tmp_path / "run" / "bad_examples.jsonl").exists()


def write_rows(folder, path):
  """Videos with their captions, and sounds with theirs."""
  rows = []
  for item in json.loads((folder / "annotations.json").read_text()):
    video = f"{item['video_id']}.mp4"
    sound = video if decoding.probe(folder / video, "video").has_audio else None
    rows.append(
      {
        "id": item["video_id"],
        "video": video,
        "audio": sound,
        "text": item["desc"],
      }
    )
  for sound in sorted(folder.glob("*.ogg")):
    text = sound.with_suffix(".txt").read_text().splitlines()[0]
    rows.append(
      {"id": sound.stem, "video": None, "audio": sound.name, "text": text}
    )
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


def test_the_same_encoders_take_part_in_a_space_of_one_vector_each(media):
  config = shrink(get_config("finetune_msrvtt"), media)
  described = config.model.encoders.to_dict()
  described["audio"]["pooling"] = "mean"
  described["subtitle"] = described["text"]
  config.model = {"dim": 8, "encoders": described}
  data = build.load_data(config)
  model = build_model(config, data)
  assert {name: e.has_clips for name, e in model.encoders.items()} == {
    "text": False,
    "vision": True,
    "audio": True,
    "subtitle": False,
  }
  inputs = random_batch(data.train.spec)["inputs"]
  embeddings, _ = jax.eval_shape(
    lambda key: model.apply(model.init(key, inputs), inputs), jax.random.key(0)
  )
  assert embeddings.shape == (4, 4, 8)
  config.model.encoders.audio.pooling = "last"
  with pytest.raises(ValueError, match="audio.pooling must be"):
    build_model(config, data)
  config.model.encoders.audio = {**described["text"]}
  with pytest.raises(ValueError, match="a bert, whose inputs have 1 axes"):
    build_model(config, data)


def test_a_prepared_folder_is_read_as_the_table_is(media, tmp_path):
  config = shrink(get_config("finetune_msrvtt"), media)
  table = read_manifest(media / "train.jsonl", kinds={"audio": "audio"})
  manifest_build(table, tmp_path / "built", workers=1)
  rows = next(evaluation_batches(build.load_data(config).train, batch_size=2))
  changes = {
    "name": "tfds",
    "data_set": str(tmp_path / "built"),
    "train": "train",
    "test": "train",
  }
  for name, value in changes.items():
    config.data[name] = value
  stored = build.load_data(config)
  assert stored.train.modalities == ("text", "vision", "audio", "subtitle")
  batch = next(evaluation_batches(stored.train, batch_size=2))
  assert batch["inputs"]["vision"].shape == (2, 2, 28, 28, 3)
  np.testing.assert_array_equal(batch["where"], rows["where"])
  # Captions are drawn, videos and sounds stored in another form.
  subtitles = batch["inputs"]["subtitle"], rows["inputs"]["subtitle"]
  np.testing.assert_array_equal(*subtitles)
  sounds = batch["inputs"]["audio"], rows["inputs"]["audio"]
  np.testing.assert_allclose(*sounds, atol=0.5)
