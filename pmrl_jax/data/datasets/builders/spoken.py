"""The raw recordings of the Free Spoken Digit Dataset, made smaller."""

from __future__ import annotations

import io
import pathlib
from typing import Any

import numpy as np
import soundfile

SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
NUM_RECORDINGS = 50  # per speaker and digit
NUM_TEST_RECORDINGS = 5
SAMPLE_RATE = 8000  # Hz
# In dB. Chosen for size: 28 dB takes 4.6 MB, 35 dB 5.6 MB, the originals 12 MB.
NOISE_BELOW_SIGNAL = 28.0
OBTAIN = (
  "Download the Free Spoken Digit Dataset (github.com/Jakobovski/"
  "free-spoken-digit-dataset, 3,000 recordings) and put its folder "
  "'recordings' into the folder of raw files."
)


def read_recordings(folder: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
  """Reads and requantises `recordings/{digit}_{speaker}_{recording}.wav`.

  Args:
    folder: the folder that holds the folder `recordings`.

  Returns:
    {split: examples}, ordered by digit, speaker and recording.

  Raises:
    FileNotFoundError: if one of the 3,000 recordings is missing.
    ValueError: if one is not a WAV file of the expected kind.
  """
  examples: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
  for label in range(10):
    for speaker in SPEAKERS:
      for recording in range(NUM_RECORDINGS):
        path = folder / "recordings" / f"{label}_{speaker}_{recording}.wav"
        split = "test" if recording < NUM_TEST_RECORDINGS else "train"
        examples[split].append(
          {
            "label": label,
            "flac": _encode_flac(requantise(_read_recording(path))),
            "speaker": speaker,
            "recording": recording,
          }
        )
  return examples


def _read_recording(path: pathlib.Path) -> np.ndarray:
  expected = "a WAV file, 8 kHz, one channel, 16 bit"
  if not path.is_file():
    raise FileNotFoundError(f"{path} is missing; expected {expected}. {OBTAIN}")
  try:
    waveform, sample_rate = soundfile.read(path, dtype="int16")
  except soundfile.LibsndfileError as error:
    raise ValueError(
      f"{path} is malformed; expected {expected}, but: {error}. {OBTAIN}"
    ) from error
  if sample_rate != SAMPLE_RATE or waveform.ndim != 1 or not waveform.size:
    raise ValueError(
      f"{path} is malformed; expected {expected}, got {sample_rate} Hz and "
      f"samples of shape {waveform.shape}. {OBTAIN}"
    )
  return waveform


def requantise(waveform: np.ndarray) -> np.ndarray:
  """Rounds a recording to the coarsest step of 2^s that is hardly audible.

  Rounding to a step adds noise of power step^2 / 12. The step is the largest
  power of two whose noise lies at least 28 dB below the recording's power.
  FLAC stores none of the low bits that become zero, which more than halves
  the data.

  The noise it adds can itself lift the measured power over the next step, so
  the rule is repeated until nothing changes: requantising a requantised
  recording returns it as it is.

  Args:
    waveform: int16 samples `[time]`.

  Returns:
    int16 samples `[time]`, every one a multiple of the step.
  """
  while True:
    power = np.mean(np.square(waveform, dtype=np.float64))
    noise_power = power * 10 ** (-NOISE_BELOW_SIGNAL / 10)
    step = 1
    while (2 * step) ** 2 / 12 <= noise_power:
      step *= 2
    # The largest multiple that int16 can hold, so that clipping keeps to it.
    limit = np.iinfo(np.int16).max // step
    rounded = np.clip(np.rint(waveform / step), -limit, limit) * step
    if np.array_equal(rounded, waveform):
      return waveform
    waveform = rounded.astype(np.int16)


def _encode_flac(waveform: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  soundfile.write(
    buffer,
    waveform,
    SAMPLE_RATE,
    format="FLAC",
    subtype="PCM_16",
    compression_level=1.0,
  )
  return buffer.getvalue()
