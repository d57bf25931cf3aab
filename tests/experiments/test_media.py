"""A run on media files: a table in, a report out, what is broken listed."""

import json

import numpy as np
import pytest

from experiments import cli, evaluate, train
from experiments.configs import own_media

av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")

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
  ended = call(
    evaluate.main, f"--workdir={run}", "--strict", "--allow_missing"
  )
  assert ended.code == cli.MISTAKE and "opposites" in ended.err
  assert (run / "summary.json").read_bytes() == summary
  ended = call(evaluate.main, f"--workdir={run}", "--allow_missing")
  assert ended.code == 0, ended.err
  (line,) = [line for line in ended.out.splitlines() if "mean R@1" in line]
  assert "coverage 0.750" in line
  scores = json.loads((run / "summary.json").read_text())["retrieval"]
  assert scores["text->audio"]["coverage"] == 0.75
  assert scores["text->video"]["coverage"] == 1
