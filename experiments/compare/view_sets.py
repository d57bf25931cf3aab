"""Views of the same instances, cut into training, validation and test rows."""

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pmrl_jax.data import ArraySource, datasets, read_records, tabular, vision

# How the rows are cut is part of the comparison, not of a seed.
_SPLIT_SEED = 0
_VALIDATION_SHARE = 0.2
_MAX_VALIDATION = 400  # more would cost time and hardly tell more
_TEST_SHARE = 0.25  # where the file does not say which rows are for testing
_THIN = (1000, 120, 200)  # most rows of each part, if time is short
_MIN_ROWS = 4  # of each part

# What NumPy and zipfile raise when a file is something else, or damaged.
_DAMAGED = (EOFError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


class Rows(NamedTuple):
  """The rows of one part; row i of every view is the same instance."""

  views: dict[str, np.ndarray]  # float32 [instance, feature]
  labels: np.ndarray  # int32 [instance]


class ViewSet(NamedTuple):
  """A data set of the comparison."""

  title: str
  train: Rows
  validation: Rows  # cut from the training rows; chooses the temperatures
  test: Rows  # never chooses anything

  @property
  def modalities(self) -> tuple[str, ...]:
    """The names of the views, in the order of the modality axis."""
    return tuple(self.train.views)

  def thinned(self) -> "ViewSet":
    """The same with fewer rows, for when there is little time."""
    parts = []
    for rows, most in zip(self[1:], _THIN):
      num_rows = len(rows.labels)
      which = np.linspace(0, num_rows - 1, min(most, num_rows)).astype(int)
      parts.append(_take(rows, which))
    return ViewSet(self.title, *parts)

  def fingerprint(self) -> str:
    """A hash of all rows: other data, other results."""
    digest = hashlib.sha256()
    for rows in (self.train, self.validation, self.test):
      for array in (*rows.views.values(), rows.labels):
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def load_view_sets(
  names: Sequence[str], folder: Path | None
) -> dict[str, ViewSet]:
  """Loads data sets.

  Args:
    names: Some of `VIEW_SETS`.
    folder: Where the files of those are that do not ship.

  Returns:
    The sets by name.

  Raises:
    ValueError: If a name is unknown, a folder is needed, or a file is bad.
    FileNotFoundError: If a file is missing.
  """
  unknown = [name for name in names if name not in VIEW_SETS]
  if unknown or not names or len(set(names)) != len(names):
    raise ValueError(
      f"--sets must be different names among {', '.join(VIEW_SETS)}, got "
      f"{', '.join(names) or 'none'}"
    )
  return {name: VIEW_SETS[name](folder) for name in names}


def _digits(folder: Path | None) -> ViewSet:
  """Thirds of handwritten digits that overlap; the test writers are others."""
  del folder  # ships with the package
  parts = []
  for split in ("train", "test"):
    columns = read_records("multimodal_digits/image", split)
    pixels = vision.scale_pixels(columns["image"], maximum=16)
    pixels = pixels.reshape(-1, 8, 8)
    views = {
      "top": pixels[:, 0:5],
      "bottom": pixels[:, 3:8],
      "middle": pixels[:, :, 2:6],
    }
    parts.append(_rows(views, columns["label"]))
  train, validation = _cut_validation(parts[0])
  return ViewSet(
    "parts of 8x8 handwritten digits (rows 0-4, rows 3-7, columns 2-5)",
    train,
    validation,
    parts[1],
  )


def _mfeat(folder: Path | None) -> ViewSet:
  """Six feature sets of the same handwritten digits."""
  del folder  # ships with the package
  parts = []
  for split in ("train", "test"):
    source = datasets.mfeat(split)
    every = np.arange(len(source))
    views = {view: source.inputs(view, every) for view in source.modalities}
    parts.append(_rows(views, source.labels))
  train, validation = _cut_validation(parts[0])
  return _standardised(
    ViewSet("six views of handwritten digits", train, validation, parts[1])
  )


def _tcga_brca(folder: Path | None) -> ViewSet:
  """Expression, methylation and microRNA of the same breast tumours."""
  path = _file(folder, "tcga_brca", "tcga_brca348.npz")
  views = ("expression", "methylation", "mirna")
  arrays = _read(path, [*views, "cluster", "is_test"])
  is_test = arrays["is_test"].astype(bool)
  rows = _checked_rows(path, {v: arrays[v] for v in views}, arrays["cluster"])
  if is_test.shape != rows.labels.shape:
    raise ValueError(
      f"{path} must have one is_test per row, got {is_test.shape} for "
      f"{len(rows.labels)} rows"
    )
  train, validation = _cut_validation(_take(rows, ~is_test))
  return _standardised(
    ViewSet("breast tumours", train, validation, _take(rows, is_test)), path
  )


def _emoji(folder: Path | None) -> ViewSet:
  """Three vendors' drawings of the same emoji, and what it is called."""
  path = _file(folder, "emoji", "emoji32.npz")
  vendors = ("noto", "twemoji", "openmoji")
  arrays = _read(
    path,
    [*(f"img_{v}" for v in vendors), "name_en", "kw_en", "group", "family"],
  )
  views = {}
  for vendor in vendors:
    pixels = arrays[f"img_{vendor}"]
    if pixels.shape[1:] != (32, 32, 3):
      raise ValueError(
        f"{path} must hold img_{vendor} as [emoji, 32, 32, 3], got shape "
        f"{pixels.shape}"
      )
    # Every second pixel in both directions, averaged: a table's worth.
    blocks = pixels.reshape(-1, 16, 2, 16, 2, 3).astype(np.float32)
    views[vendor] = blocks.mean(axis=(2, 4)) / 255
  rows = _checked_rows(path, views, arrays["group"])
  texts = [f" {a} {b} " for a, b in zip(arrays["name_en"], arrays["kw_en"])]
  # Variants of one emoji stay together, or the test would ask for what has
  # been seen.
  families = arrays["family"]
  rest, is_test = _cut_groups(families, _TEST_SHARE)
  in_train, in_validation = _cut_groups(families[rest], _VALIDATION_SHARE)
  train, validation = np.flatnonzero(rest)[in_train], rest.nonzero()[0]
  validation = validation[in_validation]
  rows.views["words"] = _trigrams(texts, train)
  return _standardised(
    ViewSet(
      "drawings of emoji by three vendors, and their English names",
      _take(rows, train),
      _take(rows, validation),
      _take(rows, is_test),
    ),
    path,
  )


VIEW_SETS: dict[str, Callable[[Path | None], ViewSet]] = {
  "digits": _digits,
  "mfeat": _mfeat,
  "emoji": _emoji,
  "tcga_brca": _tcga_brca,
}


def _rows(views: dict[str, np.ndarray], labels: np.ndarray) -> Rows:
  flat = {
    name: np.asarray(values, np.float32).reshape(len(values), -1)
    for name, values in views.items()
  }
  return Rows(flat, np.asarray(labels, np.int32))


def _checked_rows(
  path: Path, views: dict[str, np.ndarray], labels: np.ndarray
) -> Rows:
  """Rows of a user's file, of which nothing is known yet."""
  try:
    rows = _rows(views, labels)
    ArraySource(rows.views, labels=rows.labels)  # checks lengths and values
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path} cannot be used: {error}") from None
  return rows


def _take(rows: Rows, which: np.ndarray) -> Rows:
  return Rows(
    {name: values[which] for name, values in rows.views.items()},
    rows.labels[which],
  )


def _cut_validation(rows: Rows) -> tuple[Rows, Rows]:
  """Cuts validation rows from the training rows, by chance."""
  num_rows = len(rows.labels)
  num_validation = min(_MAX_VALIDATION, int(num_rows * _VALIDATION_SHARE))
  order = np.random.default_rng(_SPLIT_SEED).permutation(num_rows)
  # Sorted: the order of the rows is then that of the file.
  return (
    _take(rows, np.sort(order[num_validation:])),
    _take(rows, np.sort(order[:num_validation])),
  )


def _cut_groups(
  groups: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray]:
  """Cuts off a share of the groups; returns the masks of rest and share."""
  names = np.unique(groups)
  order = np.random.default_rng(_SPLIT_SEED).permutation(names)
  chosen = np.isin(groups, order[: int(len(names) * share)])
  return ~chosen, chosen


def _trigrams(texts: Sequence[str], train: np.ndarray) -> np.ndarray:
  """Which three letters in a row, frequent in training, a text has."""
  grams = [{t[i : i + 3].lower() for i in range(len(t) - 2)} for t in texts]
  counts = Counter(gram for row in train for gram in sorted(grams[row]))
  known = sorted(gram for gram, count in counts.items() if count >= 5)
  if not known:
    raise ValueError("the names of the emoji have no three letters in common")
  return np.array([[gram in row for gram in known] for row in grams], "f4")


def _standardised(view_set: ViewSet, path: Path | None = None) -> ViewSet:
  """Standardises every column by the training rows, and checks the sizes."""
  parts = view_set[1:]
  if min(len(rows.labels) for rows in parts) < _MIN_ROWS:
    raise ValueError(
      f"{path} has too few rows: {[len(rows.labels) for rows in parts]} for "
      f"training, validation and testing, where {_MIN_ROWS} are needed"
    )
  if len(np.unique(view_set.train.labels)) < 2:
    raise ValueError(f"{path} has training rows of one class only")
  statistics = {
    name: tabular.column_statistics(values)
    for name, values in view_set.train.views.items()
  }
  scaled = (
    Rows(
      {
        name: tabular.standardise(values, statistics[name])
        for name, values in rows.views.items()
      },
      rows.labels,
    )
    for rows in parts
  )
  return ViewSet(view_set.title, *scaled)


def _file(folder: Path | None, *parts: str) -> Path:
  if folder is None:
    raise ValueError(
      f"the set {parts[0]} does not ship with the package: give --data=DIR, "
      f"the folder that holds {'/'.join(parts)}"
    )
  path = folder.joinpath(*parts)
  if not path.is_file():
    raise FileNotFoundError(
      f"there is no file {path}; --data must be the folder that holds "
      f"{'/'.join(parts)}"
    )
  return path


def _read(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
  """Reads arrays from an `.npz` file."""
  try:
    # Opened here: NumPy forgets to close a file that is no archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
      missing = [name for name in names if name not in content.files]
      arrays = {name: content[name] for name in names if name not in missing}
  except _DAMAGED as error:
    raise ValueError(
      f"{path} is no .npz file of plain arrays, or is damaged: {error}"
    ) from None
  if missing:
    raise ValueError(f"{path} has no arrays {missing}")
  return arrays
