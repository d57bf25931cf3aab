"""Sound: waveform -> log-mel spectrogram -> transformer.

The spectrogram is computed here in `jnp`, not by an audio library: it then
runs on the accelerator inside the compiled step, is the same code in training
and in serving, and needs no dependency (the audio libraries kept today are
NumPy or PyTorch). It follows the HTK conventions of Davis and Mermelstein
(1980) as used by the spectrogram transformers.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pmrl_jax.encoders.transformer import TransformerEncoder

# Power floor of the logarithm, 85 dB below a full-scale sine in its mel band.
_POWER_FLOOR = 1e-5


def mel_filters(num_mels: int, fft_length: int, sample_rate: int) -> np.ndarray:
  """Triangular filters, equally spaced on the mel scale (HTK formula).

  Args:
    num_mels: Number of filters.
    fft_length: Length of the Fourier transform in samples.
    sample_rate: Sampling rate in Hz.

  Returns:
    float32 `[fft_length // 2 + 1, num_mels]`.

  Raises:
    ValueError: If a filter is narrower than the bins of the transform.
  """

  def to_mel(hertz):
    return 2595.0 * np.log10(1.0 + np.asarray(hertz) / 700.0)

  edges = np.linspace(0.0, to_mel(sample_rate / 2), num_mels + 2)
  bins = to_mel(np.arange(fft_length // 2 + 1) * sample_rate / fft_length)
  rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
  falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
  filters = np.maximum(0.0, np.minimum(rising, falling))
  empty = int((filters.sum(axis=0) == 0).sum())
  if empty:
    raise ValueError(
      f"{empty} of {num_mels} mel filters contain no frequency bin of a "
      f"{fft_length}-sample transform at {sample_rate} Hz; lower num_mels or "
      "raise fft_length"
    )
  return filters.astype(np.float32)


def log_mel_spectrogram(
  waveform: jax.Array,
  *,
  sample_rate: int,
  num_mels: int = 40,
  frame_seconds: float = 0.025,
  hop_seconds: float = 0.010,
) -> jax.Array:
  """Natural logarithm of the mel-filtered power spectrum.

  Frames are Hann-windowed and taken without padding; the transform's length
  is the power of two that holds a frame.

  Args:
    waveform: Float `[..., samples]` in -1..1.
    sample_rate: Sampling rate in Hz.
    num_mels: Number of mel filters between 0 Hz and half the rate.
    frame_seconds: Frame length in seconds.
    hop_seconds: Distance between frames in seconds.

  Returns:
    float32 `[..., frames, num_mels]`.

  Raises:
    ValueError: If the waveform is shorter than one frame.
  """
  frame_length = round(frame_seconds * sample_rate)
  hop_length = round(hop_seconds * sample_rate)
  fft_length = 1 << (frame_length - 1).bit_length()
  num_samples = waveform.shape[-1]
  if num_samples < frame_length:
    raise ValueError(
      f"a waveform must hold at least one frame of {frame_length} samples "
      f"({frame_seconds} s at {sample_rate} Hz), got {num_samples} samples"
    )
  starts = np.arange(0, num_samples - frame_length + 1, hop_length)
  frames = waveform.astype(jnp.float32)[
    ..., starts[:, None] + np.arange(frame_length)
  ]
  cosine, sine = _windowed_fourier(frame_length, fft_length)
  product = functools.partial(jnp.matmul, precision="highest")
  power = product(frames, cosine) ** 2 + product(frames, sine) ** 2
  mel = product(power, mel_filters(num_mels, fft_length, sample_rate))
  return jnp.log(mel + _POWER_FLOOR)


def _windowed_fourier(
  frame_length: int, fft_length: int
) -> tuple[np.ndarray, np.ndarray]:
  """The Hann window and the Fourier transform of a frame as two matrices.

  A product suits the matrix units of accelerators. On the CPU it keeps XLA's
  FFT out of the training step: that waits inside the thread pool for the pool,
  as the decompositions of the loss do, and together they can block each other.

  Args:
    frame_length: Samples in a frame.
    fft_length: Length of the transform; the frame is padded with zeros.

  Returns:
    Real and imaginary part, float32 `[frame_length, fft_length // 2 + 1]`.
  """
  window = np.hanning(frame_length + 1)[:-1]
  transform = window[:, None] * np.exp(
    -2j
    * np.pi
    / fft_length
    * np.outer(np.arange(frame_length), np.arange(fft_length // 2 + 1))
  )
  return transform.real.astype(np.float32), transform.imag.astype(np.float32)


class SpectrogramTransformer(TransformerEncoder, kw_only=True):
  """A transformer over time slices of the log-mel spectrogram.

  Reference: Gong et al., AST: Audio Spectrogram Transformer, arXiv
  2104.01778, with patches that span all frequencies, which suits short
  sounds; masking in training as in Park et al., SpecAugment, arXiv
  1904.08779.

  Attributes:
    sample_rate: Sampling rate of the input in Hz.
    num_mels: Number of mel filters.
    frames_per_token: Spectrogram frames (10 ms each) in one token.
    max_masked_mels: Widest band of mel filters that is masked in training;
      0 turns it off.
    max_masked_frames: Longest span of frames that is masked in training; 0
      turns it off.
    The others: See `TransformerEncoder`; the spectrogram is float32 whatever
      `dtype` is.
  """

  sample_rate: int
  num_mels: int = 40
  frames_per_token: int = 4
  max_masked_mels: int = 0
  max_masked_frames: int = 0

  @nn.compact
  def __call__(self, waveform: jax.Array, *, train: bool) -> jax.Array:
    """Encodes waveforms.

    Args:
      waveform: Float `[batch, samples]` in -1..1.
      train: Whether dropout and masking are on.

    Returns:
      `[batch, width]`.

    Raises:
      ValueError: If the input is no batch of waveforms.
    """
    if waveform.ndim != 2:
      raise ValueError(
        "SpectrogramTransformer expects waveforms [batch, samples], got shape "
        f"{waveform.shape}"
      )
    x = log_mel_spectrogram(
      waveform, sample_rate=self.sample_rate, num_mels=self.num_mels
    )
    # Per recording: loudness and microphone say nothing about the content.
    mean = x.mean(axis=(1, 2), keepdims=True)
    std = x.std(axis=(1, 2), keepdims=True)
    x = (x - mean) / (std + 1e-3)
    if train:
      x = self._mask_span(x, axis=1, longest=self.max_masked_frames)
      x = self._mask_span(x, axis=2, longest=self.max_masked_mels)
    b, t, f = x.shape
    n = self.frames_per_token
    x = jnp.pad(x, ((0, 0), (0, -t % n), (0, 0))).reshape(b, -1, n * f)
    tokens = self.project(x, name="patch_embedding")
    return self.encode(tokens, train=train)

  def _mask_span(self, x: jax.Array, *, axis: int, longest: int) -> jax.Array:
    """Sets one random span per recording to 0, the recording's mean."""
    if not longest:
      return x
    length_key, start_key = jax.random.split(self.make_rng("dropout"))
    shape = (x.shape[0], 1, 1)
    span = jax.random.randint(length_key, shape, 0, longest + 1)
    start = jax.random.randint(start_key, shape, 0, x.shape[axis])
    position = jax.lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:]), axis)
    masked = (position >= start) & (position < start + span)
    return jnp.where(masked, 0.0, x)
