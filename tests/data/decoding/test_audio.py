"""Sound: all channels, rates and sample formats, and broken files."""

import io
import shutil

import av
import numpy as np
import pytest
import soundfile

from pmrl_jax.data.decoding import (
  MediaError,
  MissingStreamError,
  probe,
  read_audio,
)


def tones(num_channels, sample_rate, seconds=0.5):
  """A tone per channel, each of its own pitch: float64 `[channel, time]`."""
  time = np.arange(int(seconds * sample_rate)) / sample_rate
  pitches = 200 + 90 * np.arange(num_channels)
  return 0.5 * np.sin(2 * np.pi * pitches[:, None] * time)


def write(path, samples, sample_rate, **settings):
  soundfile.write(path, samples.T, sample_rate, **settings)
  return path


def pitches(sound):
  """The strongest frequency of each channel, in Hz."""
  spectra = np.abs(np.fft.rfft(sound.samples))
  return spectra.argmax(axis=1) * sound.sample_rate / sound.samples.shape[1]


@pytest.mark.parametrize(
  "subtype,step",
  [("PCM_U8", 2**-7), ("PCM_16", 2**-15), ("PCM_24", 2**-23), ("FLOAT", 1e-7)],
)
def test_every_sample_format_has_full_scale_one(tmp_path, subtype, step):
  expected = tones(2, 11_025)
  path = write(tmp_path / "a.wav", expected, 11_025, subtype=subtype)
  for content in (path, str(path), path.read_bytes()):
    sound = read_audio(content)
    assert sound.sample_rate == 11_025
    assert sound.samples.dtype == np.float32
    assert sound.samples.flags.c_contiguous
    np.testing.assert_allclose(sound.samples, expected, atol=1.1 * step)


@pytest.mark.parametrize("num_channels", range(1, 9))
@pytest.mark.parametrize("sample_rate", [8000, 48_000])
def test_any_channels_at_any_rate(tmp_path, num_channels, sample_rate):
  expected = tones(num_channels, sample_rate, seconds=0.1)
  sound = read_audio(write(tmp_path / "a.flac", expected, sample_rate))
  assert sound.sample_rate == sample_rate
  np.testing.assert_allclose(sound.samples, expected, atol=2**-14)


@pytest.mark.parametrize(
  "name,codec,layout,num_channels",
  [
    ("a.m4a", "aac", "mono", 1),
    ("b.mp4", "aac", "5.1", 6),
    ("c.mkv", "libopus", "stereo", 2),
    ("d.mp3", "libmp3lame", "stereo", 2),
    ("e.ts", "ac3", "5.1", 6),
  ],
)
def test_compressed_sound_keeps_its_pitches(
  encode, name, codec, layout, num_channels
):
  samples = tones(num_channels, 48_000)
  settings = {"rate": 48_000, "layout": layout, "samples": samples}
  path = encode.several(name, (codec, settings))
  info = probe(path, "audio")
  assert (info.sample_rate, info.num_channels) == (48_000, num_channels)
  sound = read_audio(path)
  assert sound.sample_rate == 48_000
  assert sound.samples.shape[0] == num_channels
  assert sound.samples.shape[1] == pytest.approx(24_000, abs=2500)
  # The fourth of six channels is for low frequencies alone.
  heard = [channel for channel in range(num_channels) if channel != 3]
  np.testing.assert_allclose(
    pitches(sound)[heard], 200 + 90 * np.arange(num_channels)[heard], atol=8
  )


def test_the_content_counts_and_not_the_extension(encode, tmp_path):
  settings = {"rate": 16_000, "layout": "mono", "samples": tones(1, 16_000)}
  source = encode.several("speech.m4a", ("aac", settings))
  renamed = tmp_path / "speech.mp3"
  shutil.copy(source, renamed)
  np.testing.assert_array_equal(
    read_audio(renamed).samples, read_audio(source).samples
  )
  assert probe(renamed, "audio").codec == "aac"
  for extension in (".mp4", ".raw", ".ogg", ""):
    path = write(tmp_path / "a.wav", tones(1, 8000), 8000)
    other = shutil.move(path, tmp_path / f"wave{extension}")
    assert read_audio(other).samples.shape == (1, 4000)
    assert probe(other, "audio").duration == pytest.approx(0.5)


def test_the_sound_of_a_video_is_all_of_it(clip):
  sound = read_audio(clip)
  with av.open(str(clip)) as container:
    expected = np.concatenate(
      [frame.to_ndarray() for frame in container.decode(audio=0)], axis=1
    )
  assert sound.sample_rate == 44_100
  np.testing.assert_array_equal(sound.samples, expected)
  np.testing.assert_array_equal(read_audio(clip.read_bytes()).samples, expected)


def test_each_of_several_streams_is_found(encode):
  low, high = tones(2, 8000), 0.5 * tones(1, 16_000)
  path = encode.several(
    "streams.mkv",
    ("aac", {"rate": 8000, "layout": "stereo", "samples": low}),
    ("libx264", {}),
    ("aac", {"rate": 16_000, "layout": "mono", "samples": high}),
  )
  for stream, sample_rate, num_channels in (
    (None, 8000, 2),
    (0, 8000, 2),
    (1, 16_000, 1),
  ):
    sound = read_audio(path, stream=stream)
    assert sound.sample_rate == sample_rate
    assert len(sound.samples) == num_channels
  with pytest.raises(MissingStreamError, match="no audio stream 2, since"):
    read_audio(path, stream=2)
  with pytest.raises(ValueError, match="from 0, got -1"):
    read_audio(path, stream=-1)


def test_a_file_with_one_recording_has_no_second(tmp_path):
  path = write(tmp_path / "a.wav", tones(1, 8000), 8000)
  with pytest.raises(MissingStreamError, match="no audio stream 1, since"):
    read_audio(path, stream=1)


def test_a_silent_video_has_no_sound(encode):
  for read in (read_audio, lambda path: probe(path, "audio")):
    with pytest.raises(MissingStreamError, match="it has no audio stream"):
      read(encode("b_frames.mp4"))


def test_what_is_no_sound_is_refused(tmp_path):
  empty, text = tmp_path / "empty.wav", tmp_path / "text.mp3"
  empty.write_bytes(b"")
  text.write_text("No sound at all.\n" * 200)
  no_samples = write(tmp_path / "none.wav", np.zeros((1, 0)), 8000)
  for path, reason in (
    (empty, "empty"),
    (text, "no media file"),
    (tmp_path, "folder"),
    (tmp_path / "missing.wav", "no such file"),
    (no_samples, "no sample"),
  ):
    with pytest.raises(MediaError, match=reason) as caught:
      read_audio(path)
    assert caught.value.path == str(path)


@pytest.mark.parametrize("extension", ["wav", "flac", "mp3"])
def test_a_cut_recording_is_refused(extension):
  file = io.BytesIO()
  noise = np.random.default_rng(0).uniform(-1, 1, (9000, 1))
  soundfile.write(file, noise, 8000, format=extension)
  content = file.getvalue()
  assert len(read_audio(content).samples[0]) == pytest.approx(9000, abs=99)
  with pytest.raises(MediaError):
    read_audio(content[: len(content) // 2])


def test_a_recording_of_unknown_length_is_read(tmp_path):
  # Programs that write into a pipe cannot say how much is to come.
  path = write(tmp_path / "a.wav", tones(1, 8000), 8000)
  content = bytearray(path.read_bytes())
  content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
  assert read_audio(bytes(content)).samples.shape == (1, 4000)


def test_the_sound_of_a_cut_video_is_refused(clip):
  content = clip.read_bytes()
  with pytest.raises(MediaError, match="cut off"):
    read_audio(content[: len(content) * 2 // 3])


@pytest.mark.shared
def test_all_real_recordings_are_read(shared):
  folder = shared("data/media")
  found = {}
  for path in (*folder.glob("*.ogg"), *folder.glob("*.mp4")):
    sound = read_audio(path)
    info = probe(path, "audio")
    assert (info.num_channels, info.sample_rate) == (
      len(sound.samples),
      sound.sample_rate,
    )
    seconds = sound.samples.shape[1] / sound.sample_rate
    assert seconds == pytest.approx(info.duration, abs=0.1)
    assert 0.05 < np.abs(sound.samples).max() < 1.5
    found[path.name] = len(sound.samples), sound.sample_rate
  assert found.pop("big_buck_bunny_480p_30s.mp4") == (6, 48_000)
  assert found.pop("nasa_13013.mp4") == (2, 8000)
  second = read_audio(folder / "nasa_13013.mp4", stream=1)
  assert second.sample_rate == 16_000
  assert sorted(found.values()) == 4 * [(1, 22_050)] + 5 * [(2, 44_100)]
