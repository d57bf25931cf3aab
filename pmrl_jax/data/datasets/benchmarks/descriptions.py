"""What is known of each data set: forms, files, expected numbers of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from pmrl_jax.data.datasets.benchmarks import official
from pmrl_jax.data.datasets.benchmarks.form import Form
from pmrl_jax.data.datasets.benchmarks.published import PUBLISHED


class Benchmark(NamedTuple):
  """The description of one data set.

  Splits are called train, validation and test wherever the data set has them;
  other names are those of its authors.
  """

  media: tuple[str, ...]  # "video" and "audio", or one of them
  forms: tuple[Form, ...]
  # Split -> the names that its annotation file has, the first one wins.
  files: Mapping[str, tuple[str, ...]]
  expected: Mapping[str, int]  # split -> number of rows
  # Split -> a CSV file beside the annotation file with the ids that belong.
  rosters: Mapping[str, str] = {}
  corrupted: str | None = None  # a file beside it: ids known to be unreadable


MSRVTT = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED, official.MSRVTT_CSV, official.VIDEO_DATA_INFO),
  files={
    "train": ("descs_ret_train.json", "MSRVTT_data.json"),
    "test": (
      "descs_ret_test_audcap_with_audio_captions.json",
      "descs_ret_test.json",
      "MSRVTT_JSFUSION_test.csv",
    ),
    "official_train": ("train_val_videodatainfo.json", "MSRVTT_data.json"),
    "official_validate": ("train_val_videodatainfo.json", "MSRVTT_data.json"),
    "official_test": ("test_videodatainfo.json", "MSRVTT_data.json"),
  },
  expected={
    "train": 9000,
    "test": 1000,
    "official_train": 6513,
    "official_validate": 497,
    "official_test": 2990,
  },
  rosters={"train": "MSRVTT_train.9k.csv"},
)
DIDEMO = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED, official.DIDEMO),
  files={
    "train": ("descs_ret_train.json", "train_data.json"),
    "validation": ("descs_ret_val.json", "val_data.json"),
    "test": ("descs_ret_test.json", "test_data.json"),
  },
  # The authors' test_data.json has one more video.
  expected={"train": 8395, "validation": 1065, "test": 1003},
  corrupted="corrupted",
)
ACTIVITYNET = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED, official.ACTIVITYNET),
  files={
    "train": ("descs_ret_train.json", "train.json"),
    "test": ("descs_ret_test.json", "val_1.json"),
    "val_2": ("val_2.json",),
  },
  expected={"train": 10009, "test": 4917, "val_2": 4885},
)
VATEX = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED, official.VATEX),
  files={
    "train": ("descs_ret_train.json", "vatex_training_v1.0.json"),
    "validation": ("descs_ret_val.json", "vatex_validation_v1.0.json"),
    "test": ("descs_ret_test.json",),
    "public_test": ("vatex_public_test_english_v1.1.json",),
  },
  expected={
    "train": 25991,
    "validation": 3000,
    "test": 1500,
    "public_test": 6000,
  },
)
AUDIOCAPS = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED, official.AUDIOCAPS_CSV),
  files={
    "train": ("descs_ret_train.json", "train.csv", "audiocaps_train.csv"),
    "validation": ("descs_ret_val.json", "val.csv", "audiocaps_val.csv"),
    "test": ("descs_ret_test.json", "test.csv", "audiocaps_test.csv"),
  },
  expected={"train": 49838, "validation": 495, "test": 975},
)
CLOTHO = Benchmark(
  media=("audio",),
  forms=(PUBLISHED, official.CLOTHO_CSV),
  files={
    "train": (
      "descs_ret_train.json",
      "descs_cap_train.json",
      "clotho_captions_development.csv",
    ),
    "validation": ("descs_cap_val.json", "clotho_captions_validation.csv"),
    "test": (
      "descs_ret_test.json",
      "descs_cap_test.json",
      "clotho_captions_evaluation.csv",
    ),
  },
  expected={"train": 3839, "validation": 1045, "test": 1045},
)
VAST = Benchmark(
  media=("video", "audio"),
  forms=(PUBLISHED,),
  files={"train": ("annotations150k.json", "annotations.json")},
  # Of the subset of 150,000 clips; VAST-27M as a whole is no benchmark.
  expected={"train": 150154},
)

BENCHMARKS: Mapping[str, Benchmark] = {
  "msrvtt": MSRVTT,
  "didemo": DIDEMO,
  "activitynet": ACTIVITYNET,
  "vatex": VATEX,
  "audiocaps": AUDIOCAPS,
  "clotho": CLOTHO,
  "vast": VAST,
}
