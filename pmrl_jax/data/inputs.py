"""From a value of a row to an array of one shape: what encoders take.

Each class describes one form of input; its instances are called with the
value of a row, as a manifest or a TFDS data set gives it, and with a source of
randomness in training, or None in an evaluation, of which nothing is random.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any, Literal

import numpy as np

from pmrl_jax.data import decoding, spectrogram, text, vision
from pmrl_jax.data.resampling import resample
from pmrl_jax.data.sources import Spec

Transform = Literal["none", "crop_flip", "random_crop", "rand_augment"]


@dataclasses.dataclass(frozen=True)
class VideoInput:
  """Frames of a video, float32 `[frame, height, width, 3]`.

  Attributes:
    num_frames: how many frames: the middle one of as many equal parts, in
      training a random one of each.
    resolution: height and width, in pixels.
    transform: "none" and "crop_flip" are the published preprocessing (see
      `vision.published_frames`); "random_crop" is an antialiased random
      resized crop, mirrored or not, and "rand_augment" that and RandAugment,
      both the central square in an evaluation.
  """

  num_frames: int = 8
  resolution: int = 224
  transform: Transform = "none"

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    side = self.resolution
    return Spec((self.num_frames, side, side, 3), np.dtype(np.float32))

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Decodes a path, an encoded video, or a list of frames."""
    if isinstance(value, str | os.PathLike | bytes):
      frames = decoding.read_video(value, num_frames=self.num_frames, rng=rng)
    else:
      chosen = decoding.frame_indices(len(value), self.num_frames, rng)
      frames = np.stack([_pixels(value[index]) for index in chosen.tolist()])
    return _prepared(rng, frames, self.resolution, self.transform)


@dataclasses.dataclass(frozen=True)
class ImageInput:
  """An image, float32 `[height, width, 3]`.

  Attributes:
    resolution: height and width, in pixels.
    transform: as in `VideoInput`.
  """

  resolution: int = 224
  transform: Transform = "none"

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    return Spec((self.resolution, self.resolution, 3), np.dtype(np.float32))

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Decodes a path, an encoded image, or pixels."""
    frames = _pixels(value)[np.newaxis]
    return _prepared(rng, frames, self.resolution, self.transform)[0]


@dataclasses.dataclass(frozen=True)
class SpectrogramInput:
  """Segments of a sound's published spectrogram, float32 `[clip, time, mel]`.

  Attributes:
    num_clips: how many segments, as the frames of a video.
    num_rows: the length of a segment, in rows of 10 ms.
    num_mel_bins: the number of mel bins.
    num_time_masks: stretches of rows that are masked in training.
    num_frequency_masks: bands of bins that are masked in training.
    sample_rate: of sounds that come as samples, in Hz; files know theirs.
  """

  num_clips: int = 1
  num_rows: int = 1024
  num_mel_bins: int = 64
  num_time_masks: int = 0
  num_frequency_masks: int = 0
  sample_rate: int | None = None

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    shape = (self.num_clips, self.num_rows, self.num_mel_bins)
    return Spec(shape, np.dtype(np.float32))

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Decodes a path, an encoded sound, or samples."""
    samples, rate = _sound(value, self.sample_rate)
    clips = spectrogram.published_spectrogram(
      rng,
      samples,
      rate,
      num_clips=self.num_clips,
      num_rows=self.num_rows,
      num_mel_bins=self.num_mel_bins,
    )
    if rng is None or not (self.num_time_masks or self.num_frequency_masks):
      return clips
    masked = [
      spectrogram.random_mask_spectrogram(
        rng,
        clip,
        num_time_masks=self.num_time_masks,
        num_frequency_masks=self.num_frequency_masks,
      )
      for clip in clips
    ]
    return np.stack(masked)


@dataclasses.dataclass(frozen=True)
class WaveformInput:
  """A stretch of a sound, all channels mixed, float32 `[time]`.

  Attributes:
    num_samples: its length. Of a longer sound it is the beginning, in training
      a random part; a shorter one is followed by zeros.
    sample_rate: the rate to return, in Hz.
    array_rate: of sounds that come as samples, in Hz; files know theirs.
  """

  num_samples: int
  sample_rate: int = 16000
  array_rate: int | None = None

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    return Spec((self.num_samples,), np.dtype(np.float32))

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Decodes a path, an encoded sound, or samples."""
    samples, rate = _sound(value, self.array_rate)
    waveform = resample(
      samples.mean(axis=0), sample_rate=rate, to=self.sample_rate
    )
    surplus = len(waveform) - self.num_samples
    start = int(rng.integers(surplus + 1)) if rng and surplus > 0 else 0
    kept = waveform[start : start + self.num_samples]
    return np.pad(kept, (0, self.num_samples - len(kept))).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class TokenInput:
  """A text as token ids, int32 `[length]`, zeros after the end.

  Attributes:
    tokenizer: a `vocab.txt` (WordPiece as bert-base-uncased has it) or a
      `tokenizer.json`.
    length: the number of tokens; a longer text loses its end.
  """

  tokenizer: str
  length: int

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    return Spec((self.length,), np.dtype(np.int32))

  @property
  def vocabulary_size(self) -> int:
    """The number of different ids."""
    return _tokenizer(self.tokenizer).size

  def __call__(self, rng: np.random.Generator | None, value: str) -> np.ndarray:
    """Encodes a text."""
    tokenizer = _tokenizer(self.tokenizer)
    return tokenizer.encode([value], length=self.length)[0][0]


@dataclasses.dataclass(frozen=True)
class CharacterInput:
  """A text as character ids, int32 `[length]`, zeros after the end.

  Attributes:
    length: the number of characters; a longer text loses its end.
    alphabet: the known characters, in lower case.
  """

  length: int
  alphabet: str = " abcdefghijklmnopqrstuvwxyz0123456789.,;:!?'\"-()"

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    return Spec((self.length,), np.dtype(np.int32))

  @property
  def vocabulary_size(self) -> int:
    """The number of different ids."""
    return text.CharacterVocabulary(self.alphabet).size

  def __call__(self, rng: np.random.Generator | None, value: str) -> np.ndarray:
    """Encodes a text."""
    vocabulary = text.CharacterVocabulary(self.alphabet)
    return vocabulary.encode([value], length=self.length).characters[0]


@dataclasses.dataclass(frozen=True)
class ArrayInput:
  """Numbers, float32 of one shape, from a row or a `.npy` file.

  Attributes:
    shape: the shape that every value has.
  """

  shape: tuple[int, ...]

  @property
  def spec(self) -> Spec:
    """The shape and type of what it returns."""
    return Spec(tuple(self.shape), np.dtype(np.float32))

  def __call__(self, rng: np.random.Generator | None, value: Any) -> np.ndarray:
    """Reads an array."""
    array = read_array(value)
    if array.shape != tuple(self.shape):
      raise ValueError(
        f"expected an array of shape {tuple(self.shape)}, got {array.shape}"
      )
    if not np.isfinite(array).all():
      raise ValueError("the array holds NaN or infinity")
    return array


def read_array(value: Any) -> np.ndarray:
  """Returns numbers, or those of a `.npy` file, as float32.

  Raises:
    ValueError: if the file is no `.npy` file of plain numbers.
  """
  if isinstance(value, str | os.PathLike):
    path = os.fspath(value)
    try:
      value = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
      raise ValueError(f"{path} is no .npy file of numbers: {error}") from None
  return np.asarray(value, np.float32)


def _pixels(value: Any) -> np.ndarray:
  """Returns uint8 `[height, width, 3]`."""
  if isinstance(value, str | os.PathLike | bytes):
    return decoding.read_image(value)
  pixels = np.asarray(value)
  if pixels.ndim == 3 and pixels.shape[-1] == 1:
    pixels = np.repeat(pixels, 3, axis=-1)
  return pixels


def _prepared(
  rng: np.random.Generator | None,
  frames: np.ndarray,
  resolution: int,
  transform: Transform,
) -> np.ndarray:
  if transform == "none" or transform == "crop_flip":
    return vision.published_frames(
      rng, frames, resolution=resolution, transform=transform
    )
  if rng is None:
    frames = vision.centre_crop(frames, resolution=resolution)
  else:
    frames = vision.random_resized_crop(rng, frames, resolution=resolution)
    frames = vision.random_horizontal_flip(rng, frames)
    if transform == "rand_augment":
      frames = vision.random_augment(rng, frames)
  return vision.normalise_pixels(np.ascontiguousarray(frames))


def _sound(value: Any, sample_rate: int | None) -> tuple[np.ndarray, int]:
  """Returns samples `[channel, time]` between -1 and 1, and their rate."""
  if isinstance(value, str | os.PathLike | bytes):
    sound = decoding.read_audio(value)
    return sound.samples, sound.sample_rate
  samples = np.asarray(value)
  if sample_rate is None:
    raise ValueError(
      "a sound that comes as samples does not say its rate; give it in the "
      "input's description"
    )
  if samples.dtype.kind in "iu":
    # TFDS keeps 16 bit samples as wider integers.
    samples = samples.astype(np.float32) / 2**15
  if samples.ndim == 1:
    samples = samples[:, np.newaxis]
  return samples.T.astype(np.float32), sample_rate


@functools.lru_cache(maxsize=8)
def _tokenizer(path: str) -> Any:
  return text.load_tokenizer(path)
