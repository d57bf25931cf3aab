"""Time series of brain regions -> how strongly every two are correlated."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pmrl_jax.data.datasets.abide.features import FeatureTable, quantities

# Above, the inverse hyperbolic tangent says more of rounding than of brains.
MAX_CORRELATION = 1 - 1e-6
MIN_TIME_POINTS = 10
FILE_END = "_rois_ho.1D"


class TimeSeries(NamedTuple):
  """The content of one file."""

  regions: tuple[str, ...]  # the numbers of the atlas, as in the header
  values: np.ndarray  # float64 [time, region]


class Connectivity(NamedTuple):
  """Correlations of all pairs of regions."""

  values: np.ndarray  # float32 [pair], NaN where a region is undefined
  num_undefined: int  # regions that are constant or hold NaN or infinity
  num_clipped: int  # pairs whose correlation was clipped


def connectivity_table(root: pathlib.Path, ids: Sequence[str]) -> FeatureTable:
  """Reads the time series of every subject that has one.

  Args:
    root: the folder below which there are files `FILE_ID_rois_ho.1D`.
    ids: the subjects, in the order of the rows that are returned.

  Returns:
    A column for every pair of regions; who has no file is absent.

  Raises:
    FileNotFoundError: if no subject has a file.
    ValueError: if a file is not of the form, has other regions than the rest,
      or is one of several of a subject.
  """
  paths = _time_series_paths(root, ids)
  results: dict[str, Connectivity] = {}
  regions, first = None, None
  for item, path in paths.items():
    series = read_time_series(path)
    if regions is None:
      regions, first = series.regions, path
    if series.regions != regions:
      raise ValueError(
        f"expected the {len(regions)} regions of {first} in {path}, got "
        f"{len(series.regions)}, or the same in another order"
      )
    results[item] = fisher_z_connectivity(series.values)
  columns = pair_names(regions or ())
  nothing = Connectivity(np.full(len(columns), np.nan, np.float32), 0, 0)
  rows = [results.get(item, nothing) for item in ids]
  notes = [f"connectivity: {len(paths):,} of {len(ids):,} subjects have a file"]
  odd = [row.num_undefined for row in rows if row.num_undefined]
  if odd:
    notes.append(
      f"connectivity: {sum(odd):,} regions of {len(odd):,} subjects are "
      "constant or not finite; their correlations are undefined"
    )
  num_clipped = sum(row.num_clipped for row in rows)
  if num_clipped:
    notes.append(f"connectivity: {num_clipped:,} correlations of 1 or -1")
  return quantities(np.stack([row.values for row in rows]), columns, notes)


def read_time_series(path: str | os.PathLike[str]) -> TimeSeries:
  """Reads a `.1D` file.

  Args:
    path: a header of region numbers that begin with `#`, then a line per time
      point with a number per region, separated by white space.

  Returns:
    The regions and their values.

  Raises:
    ValueError: if the file is not of this form or holds fewer than
      `MIN_TIME_POINTS` time points.
  """
  path = pathlib.Path(path)
  with path.open(encoding="utf-8", errors="replace") as file:
    header = file.readline()
    if not header.startswith("#"):
      raise ValueError(
        f"expected a first line of region numbers with # in {path}, got "
        f"{header!r:.60}"
      )
    regions = tuple(header.replace("#", " ").split())
    lines = [line for line in file if line.strip()]
  try:
    values = np.loadtxt(lines, comments=None, ndmin=2) if lines else None
  except ValueError as error:
    raise ValueError(f"expected numbers in {path}: {error}") from error
  if values is None or len(values) < MIN_TIME_POINTS:
    raise ValueError(
      f"expected at least {MIN_TIME_POINTS} time points in {path}, got "
      f"{len(lines)}; a download that broke off looks like this"
    )
  if values.shape[1] != len(regions):
    raise ValueError(
      f"expected {len(regions)} numbers a line in {path}, as its header has, "
      f"got {values.shape[1]}"
    )
  return TimeSeries(regions, values)


def fisher_z_connectivity(series: np.ndarray) -> Connectivity:
  """Fisher-transformed Pearson correlations of all pairs of regions.

  z_ij = artanh(r_ij) for i < j, row by row of the upper triangle, after |r| is
  clipped to `MAX_CORRELATION`. (R. A. Fisher, "Frequency distribution of the
  values of the correlation coefficient", Biometrika 1915.)

  Args:
    series: `[time, region]`.

  Returns:
    The values and what was not as it should be: the pairs of a region that
    never changes, or holds NaN or infinity, are NaN.

  >>> series = np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])
  >>> round(float(np.tanh(fisher_z_connectivity(series).values[0])), 3)
  0.5
  """
  series = np.asarray(series, np.float64)
  num_regions = series.shape[1]
  defined = np.isfinite(series).all(axis=0)
  defined[defined] = np.ptp(series[:, defined], axis=0) > 0
  correlations = np.full((num_regions, num_regions), np.nan)
  if np.count_nonzero(defined) > 1:
    within = np.corrcoef(series[:, defined], rowvar=False)
    correlations[np.ix_(defined, defined)] = within
  pairs = correlations[np.triu_indices(num_regions, k=1)]
  num_clipped = np.count_nonzero(np.abs(pairs) > MAX_CORRELATION)
  pairs = np.clip(pairs, -MAX_CORRELATION, MAX_CORRELATION)
  return Connectivity(
    np.arctanh(pairs).astype(np.float32),
    int(np.count_nonzero(~defined)),
    int(num_clipped),
  )


def pair_names(regions: tuple[str, ...]) -> tuple[str, ...]:
  """Returns "a-b" for every pair, in the order of the connectivity."""
  rows, columns = np.triu_indices(len(regions), k=1)
  return tuple(f"{regions[i]}-{regions[j]}" for i, j in zip(rows, columns))


def _time_series_paths(
  root: pathlib.Path, ids: Sequence[str]
) -> dict[str, pathlib.Path]:
  """Returns the one file of every subject that has one."""
  found: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
  for path in sorted(root.rglob(f"*{FILE_END}")):
    found[path.name.removesuffix(FILE_END)].append(path)
  paths = {item: found[item] for item in ids if item in found}
  if not paths:
    raise FileNotFoundError(
      f"expected files such as {ids[0]}{FILE_END} below {root}, found "
      f"{len(found):,} of other subjects"
    )
  for item, several in paths.items():
    if len(several) > 1:
      raise ValueError(
        f"expected one time series of {item!r} below {root}, got "
        f"{several[0]} and {several[1]}; give the folder of one pipeline"
      )
  return {item: several[0] for item, several in paths.items()}
