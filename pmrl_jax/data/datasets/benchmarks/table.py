"""Annotation file and folders of media -> a table with one row per item."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from pmrl_jax.data.datasets.benchmarks.cells import media_cells
from pmrl_jax.data.datasets.benchmarks.descriptions import (
  BENCHMARKS,
  Benchmark,
)
from pmrl_jax.data.datasets.benchmarks.form import (
  Form,
  Row,
  is_list_with,
  read_content,
  some,
)


class BenchmarkManifest(NamedTuple):
  """One split of a benchmark, a row for every item of its annotation file."""

  # id, the modalities, source (if any is known), split; absent cells are null.
  # Media are paths relative to `root`, texts are lists of texts.
  table: pa.Table
  kinds: dict[str, str]  # modality -> "video", "audio" or "text"
  root: pathlib.Path
  notes: list[str]  # what was read, what is missing, what was odd
  expected: int | None  # how many rows the split has elsewhere
  corrupted: tuple[str, ...] = ()  # ids in the table known as unreadable


def benchmark_manifest(
  name: str,
  split: str,
  *,
  annotations: str | os.PathLike[str],
  media: str | os.PathLike[str] | None = None,
  audio: str | os.PathLike[str] | None = None,
) -> BenchmarkManifest:
  """Reads one split of a retrieval benchmark.

  Every item of the annotation file becomes a row, in the file's order and
  under the file's id; no item is left out because something is missing.

  Args:
    name: one of `BENCHMARKS`.
    split: one of the data set's splits.
    annotations: the annotation file, or the folder that holds it under one of
      its usual names.
    media: the folder of the videos, for Clotho of the recordings. None leaves
      out media, for a look at the texts.
    audio: the folder of the sound files. None takes sound files beside the
      videos and else the sound tracks of the videos, whose headers are read.

  Returns:
    The table and what there is to say about it.

  Raises:
    FileNotFoundError: if the annotation file is not there.
    ValueError: if the data set, the split, or the form of the file is unknown,
      an id occurs twice, or no item has any file in the folders.
  """
  if name not in BENCHMARKS:
    raise ValueError(f"expected one of {list(BENCHMARKS)}, got {name!r}")
  benchmark = BENCHMARKS[name]
  if split not in benchmark.files:
    raise ValueError(
      f"expected one of the splits {list(benchmark.files)} of {name}, got "
      f"{split!r}"
    )
  path, notes = _annotation_file(benchmark, split, pathlib.Path(annotations))
  content = read_content(path)
  form = _form(benchmark, content, path)
  rows = _select(_rows(form, content, path), benchmark, split, path)
  _check_ids(rows, path)
  notes += [f"{len(rows):,} rows of {path}", *_unread(form, content)]
  expected = benchmark.expected.get(split)
  if expected is not None and len(rows) != expected:
    notes.append(f"{len(rows):,} rows where {split} has {expected:,} elsewhere")
  corrupted = _corrupted(benchmark, rows, path, notes)
  columns: dict[str, list[Any]] = {"id": [row.id for row in rows]}
  kinds: dict[str, str] = {}
  root = path.parent.resolve()
  if media is not None or audio is not None:
    cells = media_cells(rows, benchmark.media, media=media, audio=audio)
    columns |= cells.columns
    kinds |= {modality: modality for modality in cells.columns}
    notes += cells.notes
    root = cells.root
  texts = _text_columns(rows, notes)
  columns |= texts
  kinds |= {modality: "text" for modality in texts}
  return BenchmarkManifest(
    _table(columns, texts, rows, split), kinds, root, notes, expected, corrupted
  )


def _annotation_file(
  benchmark: Benchmark, split: str, path: pathlib.Path
) -> tuple[pathlib.Path, list[str]]:
  """Returns the file, and what to note on the choice."""
  if path.is_file():
    return path, []
  if not path.is_dir():
    raise FileNotFoundError(
      f"expected an annotation file or its folder, got {path}"
    )
  names = benchmark.files[split]
  found = [name for name in names if (path / name).is_file()]
  if not found:
    held = sorted(entry.name for entry in path.iterdir())
    raise FileNotFoundError(
      f"expected one of {list(names)} for {split!r} in {path}, which holds "
      f"{some(held) or 'nothing'}; give the file itself if it has another name"
    )
  if len(found) == 1:
    return path / found[0], []
  return path / found[0], [f"read {found[0]}, not {some(found[1:])} beside it"]


def _form(benchmark: Benchmark, content: Any, path: pathlib.Path) -> Form:
  for form in benchmark.forms:
    if form.fits(content):
      return form
  got: Any = content
  if isinstance(content, list) and content and isinstance(content[0], dict):
    got = f"a list of objects with {list(content[0])}"
  elif isinstance(content, dict):
    got = f"an object with {some(list(content))}"
  known = "; or ".join(form.text for form in benchmark.forms)
  raise ValueError(f"expected {path} to hold {known}; got {got!s:.200}")


def _rows(form: Form, content: Any, path: pathlib.Path) -> list[Row]:
  try:
    return form.rows(content)
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from error
  except (AttributeError, KeyError, TypeError) as error:
    raise ValueError(
      f"{path} begins as {form.text}, but an entry is not of that form "
      f"({type(error).__name__}: {error})"
    ) from error


def _select(
  rows: list[Row], benchmark: Benchmark, split: str, path: pathlib.Path
) -> list[Row]:
  """Picks the rows of one split from a file that holds several."""
  if all(row.split is None for row in rows):
    return rows
  if split in benchmark.rosters:
    roster = path.parent / benchmark.rosters[split]
    if not roster.is_file():
      raise FileNotFoundError(
        f"expected {roster} with the ids of {split!r}, since {path.name} holds "
        "all videos"
      )
    listed = read_content(roster)
    if not is_list_with(listed, "video_id"):
      raise ValueError(f"expected a column video_id in {roster}")
    items = [str(line["video_id"]) for line in listed]
    by_id = {row.id: row for row in rows}
    absent = [item for item in items if item not in by_id]
    if absent:
      raise ValueError(f"{roster} lists {some(absent)}, not in {path}")
    return [by_id[item] for item in items]
  wanted = split.removeprefix("official_")
  if wanted == split:
    raise ValueError(
      f"{path} cannot tell which videos are in {split!r}; give one of "
      f"{list(benchmark.files[split])}"
    )
  chosen = [row for row in rows if row.split == wanted]
  if not chosen:
    raise ValueError(
      f"expected videos of the split {wanted!r} in {path}, got "
      f"{sorted({str(row.split) for row in rows})}"
    )
  return chosen


def _check_ids(rows: Sequence[Row], path: pathlib.Path) -> None:
  if not rows:
    raise ValueError(f"{path} holds no rows")
  counts = collections.Counter(row.id for row in rows)
  twice = [item for item, count in counts.items() if count > 1]
  if twice:
    raise ValueError(
      f"{path} has several rows for {some(twice)}; gather the captions of an "
      "item in one list"
    )
  paths = [item for item in counts if "/" in item or "\0" in item]
  if paths:
    raise ValueError(f"expected names as ids in {path}, got {some(paths)}")


def _unread(form: Form, content: Any) -> list[str]:
  """Names the keys of the entries that do not become columns."""
  if not isinstance(content, list):
    return []
  counts = collections.Counter(
    key for item in content for key in item.keys() - form.reads(item)
  )
  return [
    f"not read: {key!r}, in {count:,} entries"
    for key, count in sorted(counts.items())
  ]


def _corrupted(
  benchmark: Benchmark, rows: Sequence[Row], path: pathlib.Path, notes: list
) -> tuple[str, ...]:
  """Returns the items on the list of unreadable ones beside the file."""
  if benchmark.corrupted is None:
    return ()
  listed = path.parent / benchmark.corrupted
  if not listed.is_file():
    return ()
  items = dict.fromkeys(listed.read_text("utf-8").split())
  here = tuple(row.id for row in rows if row.id in items)
  notes.append(
    f"{listed.name} lists {len(items):,} unreadable ids, {len(here):,} of them "
    "in these rows" + (f" (kept): {some(here)}" if here else "")
  )
  return here


def _text_columns(
  rows: Sequence[Row], notes: list[str]
) -> dict[str, list[list[str] | None]]:
  """Returns the texts per modality, without empty ones; appends to notes."""
  columns = {}
  for modality in dict.fromkeys(key for row in rows for key in row.texts):
    column = []
    empty = blank = 0
    for row in rows:
      texts = row.texts.get(modality, ())
      kept = [text for text in texts if text.strip()]
      empty += sum(text == "" for text in texts)
      blank += sum(text != "" and not text.strip() for text in texts)
      column.append(kept or None)
    sizes = [len(texts) for texts in column if texts]
    note = f"{modality}: {len(sizes):,} of {len(rows):,} rows"
    if sizes:
      columns[modality] = column
      least, most = min(sizes), max(sizes)
      number = str(least) if least == most else f"{least} to {most}"
      note += f", {number} each"
    if empty or blank:
      note += f"; absent: {empty:,} empty texts, {blank:,} of white space only"
    notes.append(note)
  notes += _shared_captions(columns.get("text", []))
  return columns


def _shared_captions(column: Iterable[list[str] | None]) -> list[str]:
  counts = collections.Counter(
    caption for captions in column for caption in set(captions or ())
  )
  shared = sum(count > 1 for count in counts.values())
  return [f"{shared:,} captions belong to several rows"] if shared else []


def _table(
  columns: Mapping[str, list],
  texts: Iterable[str],
  rows: Sequence[Row],
  split: str,
) -> pa.Table:
  text = pa.list_(pa.string())
  arrays = {
    name: pa.array(values, text if name in texts else pa.string())
    for name, values in columns.items()
  }
  if any(row.source for row in rows):
    arrays["source"] = pa.array([row.source for row in rows], pa.string())
  arrays["split"] = pa.array([split] * len(rows), pa.string())
  return pa.table(arrays)
