"""A run on media files: a table in, a report out, what is broken listed."""

import json

import av
import numpy as np
import pytest
import soundfile

from experiments import cli, evaluate, train
from experiments.configs import own_media, own_prepared
from experiments.data_sets import load_data
from pmrl_jax.data import evaluation_batches
from pmrl_jax.data.manifest import Encoding, build, read_manifest

COLOURS = ["red", "green", "blue", "white"]


def write_video(path, colour, num_frames=6):
  pixels = np.zeros((32, 48, 3), np.uint8)
  pixels[:] = {
    "red": (200, 0, 0),
    "green": (0, 200, 0),
    "blue": (0, 0, 200),
    "white": (220, 220, 220),
  }[colour]
  with av.open(str(path), "w") as container:
    stream = container.add_stream("mpeg4", rate=10)
    stream.height, stream.width = pixels.shape[:2]
    stream.pix_fmt = "yuv420p"
    for _ in range(num_frames):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode())


def write_sound(path, pitch):
  time = np.arange(4000) / 8000
  soundfile.write(path, 0.5 * np.sin(2 * np.pi * pitch * time), 8000)


@pytest.fixture(scope="module")
def media(tmp_path_factory):
  """Ten training rows, one of them broken, and four held-out ones."""
  folder = tmp_path_factory.mktemp("media")
  for index, colour in enumerate(COLOURS):
    write_video(folder / f"{colour}.mp4", colour)
    write_sound(folder / f"{colour}.wav", 200 * (index + 1))
  rows = [
    {
      "id": f"{colour} {number}",
      "video": f"{colour}.mp4",
      "audio": f"{colour}.wav" if number != 1 else None,
      "text": [f"{colour} {number}", f"a {colour} one {number}"],
    }
    for number in range(3)
    for colour in COLOURS
  ]
  train_rows = [row for row in rows[4:] if row["id"] != "white 2"]
  (folder / "torn.mp4").write_bytes(b"no video")
  train_rows += [rows[-1] | {"video": "torn.mp4"}]
  for name, chosen in (("train", train_rows), ("test", rows[:4])):
    lines = "".join(json.dumps(row) + "\n" for row in chosen)
    (folder / f"{name}.jsonl").write_text(lines)
  return folder


@pytest.fixture
def config(media):
  config = own_media.get_config()
  tiny = {"width": 8, "depth": 1, "num_heads": 2, "mlp_ratio": 1.0}
  config.update_from_flattened_dict(
    {
      "steps": 4,
      "batch_size": 8,
      "log_every": 1,
      "data.train": str(media / "train.jsonl"),
      "data.test": str(media / "test.jsonl"),
      "data.inputs.video.num_frames": 2,
      "data.inputs.video.resolution": 32,
      "data.inputs.audio.num_samples": 4000,
      "data.inputs.audio.sample_rate": 8000,
      "data.inputs.text.length": 16,
      "data.max_bad_share": 0.2,
      "model.dim": 8,
      "model.encoders.video.patch_size": 16,
      "model.encoders.audio.sample_rate": 8000,
      "optimizer.warmup_steps": 1,
      "evaluation.every": 2,
      "evaluation.batch_size": 8,
      "checkpoint.every": 2,
      **{
        f"model.encoders.{modality}.{name}": value
        for modality in ("video", "audio", "text")
        for name, value in tiny.items()
      },
    }
  )
  return config


def test_media_train_and_what_is_broken_is_listed(config, tmp_path):
  folder = tmp_path / "run"
  train.train(config, folder)
  lines = (folder / "bad_examples.jsonl").read_text().splitlines()
  (bad,) = [json.loads(line) for line in lines]
  assert bad["name"] == "white 2" and bad["modality"] == "video"
  assert "torn.mp4" in bad["reason"]
  summary = json.loads((folder / "summary.json").read_text())
  # Every caption of the held-out rows asks; videos are there once.
  scores = summary["retrieval"]["text->video"]
  assert scores["num_queries"] == 8 and scores["num_gallery"] == 4
  assert (
    "1 training examples could not be read"
    in (folder / "report.html").read_text()
  )


def test_too_many_broken_files_stop_the_run_with_their_list(config, tmp_path):
  config.data.max_bad_share = 0.05
  with pytest.raises(ValueError, match="1 of 8 examples cannot be read"):
    train.train(config, tmp_path / "run")
  assert (tmp_path / "run" / "bad_examples.jsonl").exists()


def test_an_incomplete_gallery_is_refused(config, media, tmp_path):
  config.data.test = str(media / "train.jsonl")
  with pytest.raises(ValueError, match="audio 4 of 8, text 16 of 16"):
    train.train(config, tmp_path / "run")


@pytest.mark.slow
def test_a_mixture_of_data_sets_trains(config, tmp_path):
  part = config.data.to_dict()
  config.data = {
    "name": "mixture",
    "test_part": "first",
    "parts": {
      "first": {**part, "weight": 1.0},
      "second": {**part, "weight": 2.0, "modalities": ("video", "text")},
    },
    "max_bad_share": 0.5,
  }
  train.train(config, tmp_path / "run")
  assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize(
  "change,words",
  [
    ({"modalities": ("video", "smell")}, "no modalities .'smell'."),
    ({"inputs.video.kind": "film"}, "inputs.video.kind must be one of"),
    ({"inputs.video.frames": 3}, "unknown fields .'frames'."),
  ],
)
def test_mistakes_in_the_description_are_explained(
  config, tmp_path, change, words
):
  config.unlock()
  for name, value in change.items():
    config.update_from_flattened_dict({f"data.{name}": value})
  with pytest.raises(ValueError, match=words):
    train.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_an_incomplete_gallery_is_evaluated_only_when_told(
  config, media, tmp_path, call
):
  run, held_out = tmp_path / "run", tmp_path / "test.jsonl"
  lines = (media / "test.jsonl").read_text().splitlines()
  held_out.write_text("\n".join(lines))
  config.data.test = str(held_out)
  config.data.root = str(media)
  config.update_from_flattened_dict(
    {"steps": 1, "evaluation.every": 1, "checkpoint.every": 1}
  )
  config.optimizer.warmup_steps = 0
  train.train(config, run)
  summary = (run / "summary.json").read_bytes()
  silent = json.loads(lines[0]) | {"audio": None}
  held_out.write_text("\n".join([json.dumps(silent), *lines[1:]]))
  for flags in ([], ["--strict"], ["--noallow_missing"]):
    ended = call(evaluate.main, f"--workdir={run}", *flags)
    assert ended.code == cli.MISTAKE
    assert "audio 3 of 4, text 8 of 8" in ended.err
    assert "--allow_missing for evaluate" in ended.err
  ended = call(evaluate.main, f"--workdir={run}", "--strict", "--allow_missing")
  assert ended.code == cli.MISTAKE and "opposites" in ended.err
  assert (run / "summary.json").read_bytes() == summary
  ended = call(evaluate.main, f"--workdir={run}", "--allow_missing")
  assert ended.code == 0, ended.err
  (line,) = [line for line in ended.out.splitlines() if "mean R@1" in line]
  assert "coverage 0.750" in line
  scores = json.loads((run / "summary.json").read_text())["retrieval"]
  assert scores["text->audio"]["coverage"] == 0.75
  assert scores["text->video"]["coverage"] == 1


@pytest.fixture(scope="module")
def built(media):
  """The same rows as `experiments.prepare build` stores them."""
  for split in ("train", "test"):
    build(
      read_manifest(media / f"{split}.jsonl"),
      media / "built" / split,
      encoding=Encoding(num_frames=2, jpeg_quality=95),
      name="mine",
      workers=1,
      max_bad=0.2,
    )
  return media / "built"


@pytest.fixture
def built_config(config, built):
  prepared = own_prepared.get_config()
  data = config.data.to_dict()
  config.data = prepared.data
  config.data.update(
    inputs=data["inputs"],
    data_set=str(built / "train"),
    test_data_set=str(built / "test"),
    test="train",  # the only split of a table without a column `split`
  )
  return config


def test_a_data_set_that_was_built_gives_what_its_manifest_does(
  config, built_config, media
):
  from_files = own_media.get_config()
  from_files.data.update(
    train=str(media / "train.jsonl"),
    test=str(media / "test.jsonl"),
    inputs=config.data.inputs,
  )
  stored, direct = load_data(built_config), load_data(from_files)
  for one, other in ((stored.train, direct.train), (stored.test, direct.test)):
    assert one.names == other.names
    np.testing.assert_array_equal(one.ids, other.ids)
    # What could not be read in the building is absent from the start.
    readable = ~np.isin(one.names, ["white 2"])
    np.testing.assert_array_equal(one.where[readable], other.where[readable])
    batches = [
      list(
        evaluation_batches(
          source,
          batch_size=8,
          allow_failures=True,
          process_index=0,
          process_count=1,
        )
      )
      for source in (one, other)
    ]
    for ours, theirs in zip(*batches, strict=True):
      kept = ours["where"] & theirs["where"]
      for column, (name, values) in enumerate(ours["inputs"].items()):
        # JPEG changes a pixel by a few of 255 steps, here divided by 0.26.
        tolerance = {"video": 0.1, "audio": 1e-6, "text": 0}[name]
        rows = kept[:, column]
        assert rows.any()
        np.testing.assert_allclose(
          values[rows], theirs["inputs"][name][rows], atol=tolerance
        )


@pytest.mark.slow
def test_a_data_set_that_was_built_trains(built_config, tmp_path):
  built_config.update_from_flattened_dict(
    {"steps": 1, "evaluation.every": 1, "optimizer.warmup_steps": 0}
  )
  train.train(built_config, tmp_path / "run")
  summary = json.loads((tmp_path / "run" / "summary.json").read_text())
  assert summary["retrieval"]["text->video"]["num_gallery"] == 4
  # Its broken video was listed when it was built.
  assert not (tmp_path / "run" / "bad_examples.jsonl").exists()
