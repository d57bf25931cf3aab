"""Items and folders of media -> a column of paths per modality."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from pmrl_jax.data.datasets.benchmarks.form import Row, some
from pmrl_jax.data.datasets.benchmarks.media import (
  AUDIO_EXTENSIONS,
  VIDEO_EXTENSIONS,
  Found,
  MediaFolder,
  has_sound,
)

EXTENSIONS = {"video": VIDEO_EXTENSIONS, "audio": AUDIO_EXTENSIONS}


class MediaCells(NamedTuple):
  """Paths for a table."""

  columns: dict[str, list[str | None]]  # modality -> path below root, per row
  root: pathlib.Path  # the folder that holds all of them
  notes: list[str]


def media_cells(
  rows: Sequence[Row],
  modalities: Sequence[str],
  *,
  media: str | os.PathLike[str] | None,
  audio: str | os.PathLike[str] | None,
) -> MediaCells:
  """Finds the files of every row.

  Args:
    rows: the items.
    modalities: "video" and "audio", or one of them.
    media: the folder of the videos (of the sound files, if there are none).
    audio: the folder of the sound files; see `benchmark_manifest`.

  Returns:
    The columns; a modality that no row has is left out and noted.

  Raises:
    ValueError: if no row has any file, or a path is not a folder.
  """
  folders = _folders(modalities, media, audio)
  root = pathlib.Path(
    os.path.commonpath([folder.path for folder in folders.values()])
  )
  columns: dict[str, list[str | None]] = {}
  notes: list[str] = []
  video_folder = folders["video"].path if "video" in folders else None
  for modality, folder in folders.items():
    found = [
      folder.find((row.id, *row.file_names), EXTENSIONS[modality])
      for row in rows
    ]
    paths = [file.path for file in found]
    notes += _oddities(rows, found, modality, folder, root)
    if modality == "audio" and folder.path == video_folder:
      paths = _sound_tracks(paths, columns.get("video"), root, notes)
    column = [
      None if path is None else path.relative_to(root).as_posix()
      for path in paths
    ]
    notes.append(_coverage(rows, column, modality, folder))
    if any(column):
      columns[modality] = column
  if not columns:
    raise ValueError(_nothing_found(rows[0], folders))
  return MediaCells(columns, root, notes)


def _folders(
  modalities: Sequence[str],
  media: str | os.PathLike[str] | None,
  audio: str | os.PathLike[str] | None,
) -> dict[str, MediaFolder]:
  """Returns the folder to search for each modality."""
  folders = {}
  if "video" in modalities and media is not None:
    folders["video"] = MediaFolder(media)
  sound = media if audio is None else audio
  if "audio" in modalities and sound is not None:
    folders["audio"] = MediaFolder(sound)
  return folders


def _sound_tracks(
  paths: Sequence[pathlib.Path | None],
  videos: Sequence[str | None] | None,
  root: pathlib.Path,
  notes: list[str],
) -> list[pathlib.Path | None]:
  """Fills in the videos themselves, where they have sound."""
  if videos is None:
    return list(paths)
  filled: list[pathlib.Path | None] = []
  counts: collections.Counter[bool | None] = collections.Counter()
  for path, name in zip(paths, videos):
    video = None if name is None else root / name
    if video is not None and path in (None, video):
      sound = has_sound(video)
      counts[sound] += 1
      path = video if sound else None
    filled.append(path)
  if counts:
    note = (
      f"audio: the sound track of {counts[True]:,} videos; "
      f"{counts[False]:,} have none"
    )
    if counts[None]:
      note += f", {counts[None]:,} could not be read"
    notes.append(note)
  return filled


def _oddities(
  rows: Sequence[Row],
  found: Sequence[Found],
  modality: str,
  folder: MediaFolder,
  root: pathlib.Path,
) -> list[str]:
  """Says what is not as it should be with files that were found."""
  notes = []
  ambiguous = [(row, file) for row, file in zip(rows, found) if file.others]
  if ambiguous:
    row, file = ambiguous[0]
    name = file.path.name if file.path else None
    notes.append(
      f"{modality}: several files fit {len(ambiguous):,} ids, such as "
      f"{row.id!r}: read {name!r}, not {some(file.others)}"
    )
  counts = collections.Counter(file.path for file in found if file.path)
  shared = [path.name for path, count in counts.items() if count > 1]
  if shared:
    notes.append(
      f"{modality}: {len(shared):,} files are taken by several ids: "
      f"{some(shared)}"
    )
  outside = [
    path.name
    for path in counts
    if path.name in folder.links and not path.resolve().is_relative_to(root)
  ]
  if outside:
    notes.append(
      f"{modality}: {len(outside):,} files are symbolic links out of {root}, "
      f"which a manifest may not follow: {some(outside)}; give the folder "
      "that holds the files"
    )
  return notes


def _coverage(
  rows: Sequence[Row],
  column: Sequence[str | None],
  modality: str,
  folder: MediaFolder,
) -> str:
  absent = [row.id for row, cell in zip(rows, column) if cell is None]
  note = (
    f"{modality}: {len(rows) - len(absent):,} of {len(rows):,} rows, in "
    f"{folder.path}"
  )
  if len(absent) == len(rows):
    return f"{note}: no column"
  return f"{note}; absent: {some(absent)}" if absent else note


def _nothing_found(row: Row, folders: dict[str, MediaFolder]) -> str:
  looked = [
    f"{folder.path} ({len(folder):,} files)" for folder in folders.values()
  ]
  names = [
    row.id + extension
    for modality in folders
    for extension in EXTENSIONS[modality][:2]
  ]
  return (
    f"no id has a file in {' or '.join(dict.fromkeys(looked))}; expected names "
    f"such as {some(names)}, directly in the folder"
  )
