"""The forms in which the data sets' authors, or their community, share them."""

from __future__ import annotations

from typing import Any

from pmrl_jax.data.datasets.benchmarks.form import (
  Form,
  Row,
  is_list_with,
  texts_of,
)
from pmrl_jax.data.datasets.benchmarks.published import youtube_source

CLIP_SECONDS = 10  # AudioCaps: of every clip


def _grouped(pairs: list[tuple[str, list[str]]]) -> dict[str, list[str]]:
  """Gathers the texts of each id, in the order of the file."""
  groups: dict[str, list[str]] = {}
  for item, texts in pairs:
    groups.setdefault(item, []).extend(texts)
  return groups


def _paragraph(sentences: list[str]) -> str:
  """Joins the sentences on one video to the text that it is searched by."""
  return " ".join(filter(None, (text.strip() for text in sentences)))


def _msrvtt_csv(content: Any) -> list[Row]:
  sentences = _grouped([(r["video_id"], [r["sentence"]]) for r in content])
  return [Row(item, {"text": texts}) for item, texts in sentences.items()]


def _video_data_info(content: Any) -> list[Row]:
  captions = _grouped(
    [
      (str(sentence["video_id"]), texts_of(sentence["caption"], "a sentence"))
      for sentence in content["sentences"]
    ]
  )
  rows = []
  for video in content["videos"]:
    item, url = str(video["video_id"]), str(video.get("url") or "")
    # Many clips are of one film.
    film = url.partition("?v=")[2].partition("&")[0] or None
    texts = {"text": captions.get(item, [])}
    rows.append(Row(item, texts, film, str(video.get("split", ""))))
  return rows


def _didemo(content: Any) -> list[Row]:
  moments = _grouped(
    [
      (str(m["video"]), texts_of(m["description"], f"{m['video']!r}"))
      for m in content
    ]
  )
  return [
    Row(item, {"text": [_paragraph(texts)]}) for item, texts in moments.items()
  ]


def _activitynet(content: Any) -> list[Row]:
  return [
    Row(
      item,
      {"text": [_paragraph(texts_of(video["sentences"], repr(item)))]},
    )
    for item, video in content.items()
  ]


def _vatex(content: Any) -> list[Row]:
  rows = []
  for clip in content:
    item = str(clip["videoID"])
    texts = {"text": texts_of(clip.get("enCap"), f"'enCap' of {item!r}")}
    if "chCap" in clip:
      chinese = texts_of(clip["chCap"], f"'chCap' of {item!r}")
      texts["text_chinese"] = chinese
    rows.append(Row(item, texts, youtube_source(item)))
  return rows


def _audiocaps_csv(content: Any) -> list[Row]:
  captions: dict[tuple[str, str], list[str]] = {}
  for row in content:
    clip = (row["youtube_id"], row["start_time"])
    captions.setdefault(clip, []).append(row["caption"])
  return [_audiocaps_row(*clip, texts) for clip, texts in captions.items()]


def _audiocaps_row(film: str, start: str, texts: list[str]) -> Row:
  try:
    begin = float(start)
  except ValueError as error:
    raise ValueError(
      f"expected seconds as start_time of {film!r}, got {start!r}"
    ) from error
  return Row(
    f"{film}_{begin:.3f}_{begin + CLIP_SECONDS:.3f}",
    {"text": texts},
    film,
    # What those who cut the clips call them.
    file_names=(f"{film}_{begin:g}", film, f"Y{film}"),
  )


def _clotho_csv(content: Any) -> list[Row]:
  captions = [key for key in content[0] if key.startswith("caption_")]
  return [
    Row(row["file_name"], {"text": [row[key] for key in captions]})
    for row in content
  ]


MSRVTT_CSV = Form(
  "a CSV file with the columns video_id and sentence",
  lambda content: is_list_with(content, "video_id", "sentence"),
  _msrvtt_csv,
  lambda _: {"key", "vid_key", "video_id", "sentence"},
)
VIDEO_DATA_INFO = Form(
  'a JSON object with "videos" (video_id, url, split) and "sentences" '
  "(video_id, caption)",
  lambda content: (
    isinstance(content, dict) and {"videos", "sentences"} <= set(content)
  ),
  _video_data_info,
)
DIDEMO = Form(
  "a JSON list of moments with video and description",
  lambda content: is_list_with(content, "video", "description"),
  _didemo,
  lambda _: {"video", "description"},
)
ACTIVITYNET = Form(
  "a JSON object of videos with sentences",
  lambda content: (
    isinstance(content, dict)
    and bool(content)
    and all(isinstance(v, dict) and "sentences" in v for v in content.values())
  ),
  _activitynet,
)
VATEX = Form(
  "a JSON list of clips with videoID, enCap and chCap",
  lambda content: is_list_with(content, "videoID"),
  _vatex,
  lambda _: {"videoID", "enCap", "chCap"},
)
AUDIOCAPS_CSV = Form(
  "a CSV file with the columns youtube_id, start_time and caption",
  lambda content: is_list_with(content, "youtube_id", "start_time", "caption"),
  _audiocaps_csv,
  lambda _: {"audiocap_id", "youtube_id", "start_time", "caption"},
)
CLOTHO_CSV = Form(
  "a CSV file with the columns file_name and caption_1 … caption_5",
  lambda content: is_list_with(content, "file_name", "caption_1"),
  _clotho_csv,
  lambda _: {"file_name", *(f"caption_{i}" for i in range(1, 6))},
)
