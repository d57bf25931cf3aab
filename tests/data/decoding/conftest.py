"""Media files that the tests encode, and what libav makes of all of one."""

import fractions
import pathlib

import av
import numpy as np
import pytest

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def clip():
  """A real video: 234 frames, stereo sound."""
  return FIXTURES / "mdn_rabbit320.mp4"


@pytest.fixture(scope="session")
def encode(tmp_path_factory):
  """Returns a function that encodes a video and returns its path."""
  folder = tmp_path_factory.mktemp("encoded")

  def encode(name, codec="libx264", **settings):
    path = folder / name
    if not path.exists():
      _encode(path, [(codec, settings)])
    return path

  encode.several = lambda name, *streams: (
    _encode(folder / name, streams) or folder / name
  )
  return encode


@pytest.fixture(scope="session")
def decode_all():
  """Returns a function that decodes all frames of a video the plain way."""

  def decode(path, stream=0):
    with av.open(str(path)) as container:
      return [
        np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
        for frame in container.decode(container.streams.video[stream])
      ]

  return decode


def moving_pictures(num_frames, height, width):
  """Frames that all differ: a texture that moves, and a block on it."""
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (height // 4 + 30, width // 2, 3), np.uint8)
  large = small.repeat(4, axis=0).repeat(4, axis=1)
  for i in range(num_frames):
    frame = large[i % 100 :][:height, i % width :][:, :width].copy()
    frame[8:24, i % (width - 16) :][:, :16] = (7 * i) % 256
    yield frame


def _encode(path, streams):
  """Writes a file with streams `(codec, settings)`."""
  options = streams[0][1].get("container", {})
  with av.open(str(path), "w", options=options) as container:
    added = [_add(container, *stream) for stream in streams]
    for stream, frames in added:
      for frame in (*frames, None):
        container.mux(stream.encode(frame))


def _add(container, codec, settings):
  rate = settings.get("rate", 25)
  if codec in ("aac", "ac3", "libopus", "libmp3lame", "flac"):
    stream = container.add_stream(codec, rate=rate)
    stream.layout = settings["layout"]
    return stream, _sound_frames(stream, settings["samples"])
  stream = container.add_stream(
    codec, rate=rate, options=settings.get("options", {})
  )
  stream.height, stream.width = settings.get("size", (48, 64))
  stream.pix_fmt = settings.get("pixels", "yuv420p")
  stream.gop_size = settings.get("group", 12)
  if "rotation" in settings:
    stream.set_display_rotation(settings["rotation"])
  ticks = fractions.Fraction(1, 1000)
  times = settings.get("times")
  if times is not None:
    stream.codec_context.time_base = ticks
  num_frames = len(times) if times is not None else settings.get("num", 40)

  def frames():
    pictures = moving_pictures(num_frames, stream.height, stream.width)
    for i, picture in enumerate(pictures):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      if times is not None:
        frame.pts, frame.time_base = times[i], ticks
      yield frame

  return stream, frames()


def _sound_frames(stream, samples):
  for start in range(0, samples.shape[1], 1024):
    block = np.ascontiguousarray(samples[:, start : start + 1024])
    frame = av.AudioFrame.from_ndarray(
      block.astype(np.float32), format="fltp", layout=stream.layout.name
    )
    frame.sample_rate, frame.pts = stream.rate, start
    yield frame
