"""Videos, sounds and images: checked, encoded, and read back."""

import io

import av
import numpy as np
import PIL.Image
import pytest
import soundfile
import tensorflow_datasets as tfds

from pmrl_jax.data import decoding
from pmrl_jax.data.manifest import Encoding, build, read_manifest, validate
from pmrl_jax.data.manifest.encoding import frames_at_rate
from pmrl_jax.data.resampling import resample
from pmrl_jax.data.tfds_rows import TfdsRows


def write_video(path, num_frames=20, rate=10, size=(64, 48), sound=True):
  """Writes a video whose frames get brighter, with two channels of sound."""
  with av.open(str(path), "w") as container:
    video = container.add_stream("mpeg4", rate=rate)
    video.width, video.height = size
    video.pix_fmt = "yuv420p"
    packets = []
    for i in range(num_frames):
      pixels = np.full((size[1], size[0], 3), 10 * i, np.uint8)
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      packets += video.encode(frame)
    packets += video.encode()
    if sound:
      audio = container.add_stream("aac", rate=16000, layout="stereo")
      samples = np.sin(np.arange(32000) / 10)[np.newaxis].astype(np.float32)
      frame = av.AudioFrame.from_ndarray(
        np.repeat(samples, 2, axis=0), format="fltp", layout="stereo"
      )
      frame.sample_rate = 16000
      packets += [*audio.encode(frame), *audio.encode()]
    container.mux(packets)


@pytest.fixture
def media(tmp_path, write):
  """Three rows: all media, broken media, and none but a text."""
  rng = np.random.default_rng(0)
  write_video(tmp_path / "a.mp4")
  content = (tmp_path / "a.mp4").read_bytes()
  (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
  (tmp_path / "words.mp4").write_text("these are words")
  sound = rng.integers(-20000, 20000, 8000).astype(np.int16)
  soundfile.write(tmp_path / "a.wav", sound, 8000)
  (tmp_path / "zero.wav").touch()
  pixels = rng.integers(0, 255, (40, 30, 3), np.uint8)
  PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
  (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
  rows = [
    {"id": "a", "clip": "a.mp4", "audio": "a.wav", "photo": "a.png"},
    {"id": "b", "clip": "words.mp4", "audio": "zero.wav", "photo": "cut.png"},
    {"id": "c", "clip": None, "audio": "a.mp4", "photo": None},
  ]
  for row in rows:
    row["caption"] = row["id"]
  return write(tmp_path / "t.jsonl", rows)


KINDS = {"clip": "video", "audio": "audio", "photo": "image", "caption": "text"}


def read_back(manifest, folder, **settings):
  build(manifest, folder, encoding=Encoding(**settings), workers=1, max_bad=0.5)
  return list(tfds.builder_from_directory(folder).as_data_source("train"))


def as_jpeg(pixels, quality):
  file = io.BytesIO()
  PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality)
  return file.getvalue()


def test_media_are_measured_and_broken_ones_listed(media):
  report = validate(media, kinds=KINDS, workers=1)
  clip, audio, photo = [report.columns[n].ranges for n in list(KINDS)[:3]]
  assert clip["seconds"].total == pytest.approx(2, abs=0.1)
  assert clip["frames"].total == 20 and clip["frames/s"].most == 10
  assert clip["pixels"].most == 48 and clip["sound"].total == 1
  assert (audio["Hz"].least, audio["Hz"].most) == (8000, 16000)
  assert (audio["channels"].least, audio["channels"].most) == (1, 2)
  assert photo["pixels"].total == 30
  found = {(p.row, p.column): p.reason for p in report.problems}
  assert {(1, "clip"), (1, "audio")} <= found.keys() <= {
    (1, "clip"), (1, "audio"), (1, "photo")
  }  # fmt: skip
  assert "empty" in found[1, "audio"]
  deep = validate(media, kinds=KINDS, workers=1, deep=True)
  assert [(p.row, p.column) for p in deep.problems] == [
    (1, "audio"), (1, "clip"), (1, "photo")
  ]  # fmt: skip


def test_each_kind_of_broken_file_is_listed_with_its_reason(tmp_path, write):
  write_video(tmp_path / "good.mp4")
  content = (tmp_path / "good.mp4").read_bytes()
  (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
  (tmp_path / "zero.mp4").touch()
  (tmp_path / "words.mp4").write_text("these are words")
  # AAC in MP4, which decoders that trust the name cannot read.
  (tmp_path / "aac.mp3").write_bytes(content)
  rows = [
    {"id": name, "clip": f"{name}.mp4", "audio": "aac.mp3"}
    for name in ("good", "cut", "zero", "words")
  ]
  rows.append({"id": "outside", "clip": "../good.mp4", "audio": "aac.mp3"})
  report = validate(write(tmp_path / "t.jsonl", rows), workers=1, deep=True)
  reasons = {problem.id: problem.reason for problem in report.problems}
  assert list(reasons) == ["cut", "zero", "words", "outside"]
  assert {problem.column for problem in report.problems} == {"clip"}
  for name, word in {
    "cut": "cut", "zero": "empty", "words": "no media file",
    "outside": "leaves the root",
  }.items():  # fmt: skip
    assert word in reasons[name], reasons[name]
  assert report.columns["audio"].num_broken == 0


def test_a_deep_look_finds_a_video_that_is_cut_off(media, tmp_path, write):
  rows = [{"id": "a", "clip": "a.mp4"}, {"id": "b", "clip": "cut.mp4"}]
  report = validate(write(tmp_path / "v.csv", rows), workers=1, deep=True)
  assert [problem.row for problem in report.problems] == [1]


def test_frames_come_back_as_decoding_gives_them(media, tmp_path):
  manifest = read_manifest(media, kinds=KINDS)
  records = read_back(manifest, tmp_path / "out", num_frames=5, jpeg_quality=80)
  expected = decoding.read_video(tmp_path / "a.mp4", num_frames=5)
  frames = records[0]["clip"]["frames"]
  assert frames == [as_jpeg(frame, 80) for frame in expected]
  # The second of four frames each, at 10 frames per second.
  times = np.array(records[0]["clip"]["times"])
  np.testing.assert_allclose(times, [0.1, 0.5, 0.9, 1.3, 1.7], atol=1e-6)
  for record in records[1:]:
    assert record["clip"] == {"frames": [], "times": []}


def test_a_short_video_gives_each_frame_once(media, tmp_path):
  manifest = read_manifest(media, kinds={"audio": None})
  [record, *_] = read_back(manifest, tmp_path / "out", num_frames=30)
  assert len(record["clip"]["frames"]) == 20


def test_frames_are_scaled_to_the_shorter_side(media, tmp_path):
  manifest = read_manifest(media, kinds={"audio": None})
  [record, *_] = read_back(
    manifest, tmp_path / "out",
    num_frames=None, frames_per_second=2.0, shorter_side=24,
  )  # fmt: skip
  frames = [decoding.read_image(f) for f in record["clip"]["frames"]]
  assert {frame.shape for frame in frames} == {(24, 32, 3)}
  np.testing.assert_allclose(record["clip"]["times"], [0, 0.5, 1, 1.5])
  brightness = [frame.mean() for frame in frames]
  np.testing.assert_allclose(brightness, [0, 50, 100, 150], atol=3)
  assert decoding.read_image(record["photo"]).shape == (32, 24, 3)


def test_images_within_the_limit_are_kept_as_they_are(media, tmp_path):
  manifest = read_manifest(media, kinds={"clip": None})
  records = read_back(manifest, tmp_path / "out")
  assert records[0]["photo"] == (tmp_path / "a.png").read_bytes()
  assert records[1]["photo"] == records[2]["photo"] == b""


def test_sounds_of_16_bits_come_back_exactly(media, tmp_path):
  records = read_back(read_manifest(media, kinds=KINDS), tmp_path / "out")
  samples, rate = soundfile.read(io.BytesIO(records[0]["audio"]), dtype="int16")
  expected, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
  assert rate == 8000
  np.testing.assert_array_equal(samples, expected)
  assert records[1]["audio"] == b""


@pytest.mark.parametrize("mono", [True, False])
def test_sounds_are_resampled_and_mixed_as_told(mono, media, tmp_path):
  manifest = read_manifest(media, kinds={"clip": None})
  records = read_back(manifest, tmp_path / "out", sample_rate=4000, mono=mono)
  found, rate = decoding.read_audio(records[2]["audio"])
  samples, own_rate = decoding.read_audio(tmp_path / "a.mp4")
  assert rate == 4000 and len(found) == (1 if mono else 2)
  if mono:
    samples = samples.mean(axis=0, keepdims=True)
  expected = resample(samples, sample_rate=own_rate, to=4000)
  np.testing.assert_allclose(found, expected.clip(-1, 1), atol=1 / 32768)


def test_the_rows_of_the_data_set_know_what_is_absent(media, tmp_path):
  read_back(read_manifest(media), tmp_path / "out")
  rows = TfdsRows(tmp_path / "out", "train")
  assert rows.kinds == KINDS and rows.ids == ["a", "b", "c"]
  assert rows.where.tolist() == [
    [True, True, True, True],
    [False, False, False, True],
    [False, True, False, True],
  ]
  assert len(rows.value(0, "clip")) == 20


def test_broken_media_are_listed_and_absent(media, tmp_path):
  out = tmp_path / "out"
  records = read_back(read_manifest(media, kinds=KINDS), out)
  assert [record["id"] for record in records] == [b"a", b"b", b"c"]
  lines = (out / "bad_examples.jsonl").read_text().splitlines()
  assert len(lines) == 3 and all('"name": "b"' in line for line in lines)


def test_frames_at_a_rate_are_those_shown_by_then():
  times = np.array([0, 0.04, 0.4, 0.8, 1.2, 1.6, 2.0])  # uneven
  assert frames_at_rate(times, 2).tolist() == [0, 2, 3, 4, 6]
  assert frames_at_rate(times, 100).tolist() == list(range(7))
  assert frames_at_rate(times, 0.1).tolist() == [0]
  assert frames_at_rate(np.zeros(1), 1).tolist() == [0]


@pytest.mark.shared
def test_real_media_are_validated_and_built(shared, tmp_path, write):
  folder = shared("data/media")
  files = sorted(p.name for p in folder.iterdir() if p.suffix != ".json")
  rows = []
  for name in files:
    if name.endswith(".mp4"):
      rows.append({"id": name, "clip": name, "audio": name})
    elif name.endswith(".ogg"):
      rows.append({"id": name, "audio": name})
  path = write(tmp_path / "t.jsonl", rows)
  kinds = {"clip": "video", "audio": "audio"}
  report = validate(path, kinds=kinds, root=folder, deep=True, workers=1)
  assert report.is_sound and report.num_rows == len(rows) == 11
  manifest = read_manifest(path, kinds=kinds, root=folder)
  for record in read_back(
    manifest, tmp_path / "out", num_frames=4, sample_rate=16000
  ):
    assert len(record["clip"]["frames"]) in (0, 4)
    assert decoding.read_audio(record["audio"]).sample_rate == 16000
