"""A clip to measure decoders on, in case there is no real one at hand.

What makes a video cheap or dear to decode is how much of it moves, how often it
is cut, and what the encoder makes of that. So this one has scenes of uneven
length with textures like those of nature (1/f spectra), a camera that pans and
zooms, things that move in front of it, and noise; and it is encoded as x264
does by default. Everything is drawn from one seed; but x264's own arithmetic
(macroblock trees) varies a little with where its memory lies, so two encodings
of the same pictures may differ by a few bits.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

_RATE = 30  # frames per second
_NOISE = 2.0  # of the sensor: standard deviation in steps of 256


class Footage(NamedTuple):
  """The size of a clip."""

  height: int
  width: int
  seconds: float

  @property
  def name(self) -> str:
    """A name for its file."""
    return f"footage_{self.width}x{self.height}_{self.seconds:g}s.mp4"


def drawn(folder: Path, footage: Footage) -> Path:
  """The file of a clip, drawn unless it is there.

  Args:
    folder: where it is kept.
    footage: the size of the clip.
  """
  path = folder / footage.name
  if not path.exists():
    write(path, footage)
  return path


def write(path: Path, footage: Footage) -> None:
  """Draws and encodes a clip: H.264 in MP4, x264's default settings.

  Args:
    path: The file to write; it is there once it is whole.
    footage: The size of the clip.
  """
  import av

  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_suffix(".partial.mp4")
  # One thread, since x264 decides otherwise with more of them.
  options = {"preset": "medium", "crf": "23", "x264-params": "threads=1"}
  with av.open(str(partial), "w") as container:
    stream = container.add_stream("libx264", rate=_RATE, options=options)
    stream.height, stream.width = footage.height, footage.width
    stream.pix_fmt = "yuv420p"
    for picture in pictures(footage):
      frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
      container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
  partial.replace(path)


def pictures(footage: Footage, seed: int = 0) -> Iterator[np.ndarray]:
  """Draws the frames of a clip.

  Args:
    footage: The size.
    seed: Of everything random.

  Yields:
    uint8 `[height, width, channel]`.
  """
  rng = np.random.default_rng(seed)
  left = round(footage.seconds * _RATE)
  while left > 0:
    length = min(left, int(rng.integers(2 * _RATE, 8 * _RATE)))
    yield from _scene(rng, footage, length)
    left -= length


def _scene(
  rng: np.random.Generator, footage: Footage, length: int
) -> Iterator[np.ndarray]:
  """Frames between two cuts."""
  size = 2 * max(footage.height, footage.width)
  background = Image.fromarray(_texture(rng, size))
  things = [_thing(rng, footage.height // 3) for _ in range(3)]
  places = rng.uniform(0.2, 0.8, (3, 2))
  paths = rng.uniform(-0.4, 0.4, (3, 2))
  pan, zoom = rng.uniform(-0.15, 0.15, 2), rng.uniform(-0.2, 0.2)
  shape = (footage.width, footage.height)
  for number in range(length):
    time = number / _RATE
    scale = 1 + zoom * time / 8
    centre = size / 2 + pan * time * footage.width
    corner = centre - scale * np.array(shape) / 2
    picture = background.transform(
      shape,
      Image.Transform.AFFINE,
      (scale, 0, corner[0], 0, scale, corner[1]),
      Image.Resampling.BILINEAR,
    )
    for (texture, mask), place, path in zip(things, places, paths):
      where = place + path * np.sin(time + path * 9)
      corner = (where * shape - np.array(texture.size) / 2).round()
      picture.paste(texture, (int(corner[0]), int(corner[1])), mask)
    noise = rng.normal(0, _NOISE, (footage.height, footage.width, 1))
    yield np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
  """Colours whose contrast falls with frequency: uint8 `[size, size, 3]`."""
  frequency = np.hypot(
    *np.meshgrid(np.fft.rfftfreq(size), np.fft.fftfreq(size))
  )
  frequency[0, 0] = 1
  channels = []
  grey = rng.normal(size=(size, size))
  for _ in range(3):
    noise = grey + 0.5 * rng.normal(size=(size, size))
    channel = np.fft.irfft2(np.fft.rfft2(noise) / frequency, (size, size))
    channel = (channel - channel.mean()) / channel.std()
    channels.append(128 + 50 * channel)
  return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def _thing(
  rng: np.random.Generator, size: int
) -> tuple[Image.Image, Image.Image]:
  """A textured ellipse, and the mask to paste it with."""
  height, width = rng.integers(size // 2, size, 2)
  texture = Image.fromarray(_texture(rng, size)[:height, :width])
  y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
  mask = np.clip(20 * (1 - np.hypot(y, x)), 0, 1)
  return texture, Image.fromarray((255 * mask).astype(np.uint8))
