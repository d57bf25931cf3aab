"""One media file -> arrays; knows nothing of rows, batches or transforms.

- `read_video`: frames spread over a video, by the published rule
  (`frame_indices`); `read_frames`: any frames of it, with their times
- `read_audio`: the sound of an audio file or a video
- `read_image`: an image as RGB
- `probe`: what the headers of a file say
- `MediaError`: whatever is wrong with a file

A file is given by its path, or as the bytes of all of it. What cannot be
decoded exactly is an error: nothing is repeated, filled in or replaced.
"""

from pmrl_jax.data.decoding.audio import Sound, read_audio
from pmrl_jax.data.decoding.content import Content
from pmrl_jax.data.decoding.errors import MediaError, MissingStreamError
from pmrl_jax.data.decoding.image import read_image
from pmrl_jax.data.decoding.probe import MediaInfo, probe
from pmrl_jax.data.decoding.video import (
  Frames,
  frame_indices,
  read_frames,
  read_video,
)

__all__ = [
  "Content",
  "Frames",
  "MediaError",
  "MediaInfo",
  "MissingStreamError",
  "Sound",
  "frame_indices",
  "probe",
  "read_audio",
  "read_frames",
  "read_image",
  "read_video",
]
