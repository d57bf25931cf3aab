"""What a look through a manifest found: numbers, and what is broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

from pmrl_jax.data.manifest.reading import Problem

MAX_LISTED = 1000  # problems; all are counted


@dataclasses.dataclass
class Range:
  """How large something is in many files, without keeping every number."""

  count: int = 0
  total: float = 0.0
  least: float = float("inf")
  most: float = float("-inf")

  def add(self, value: float) -> None:
    """Takes one more into account."""
    self.count += 1
    self.total += value
    self.least = min(self.least, value)
    self.most = max(self.most, value)


@dataclasses.dataclass
class ColumnReport:
  """What the cells of one modality hold."""

  kind: str
  num_present: int = 0  # cells that are not empty, broken ones included
  num_broken: int = 0
  ranges: dict[str, Range] = dataclasses.field(default_factory=dict)

  def add(self, measures: Mapping[str, float]) -> None:
    """Takes one more cell into account."""
    for name, value in measures.items():
      self.ranges.setdefault(name, Range()).add(value)


@dataclasses.dataclass
class ManifestReport:
  """What is in a manifest.

  Attributes:
    path: the manifest.
    root: the folder that paths are relative to.
    deep: whether files were decoded, or only their headers read.
    num_rows: how many rows there are.
    columns: {modality: what its cells hold}.
    splits: {split: number of rows}, "" for rows without one.
    num_problems: how many rows or cells are broken.
    problems: the first of them, by row.
    notes: sentences on what is odd, but not wrong.
  """

  path: str
  root: str
  deep: bool
  num_rows: int = 0
  columns: dict[str, ColumnReport] = dataclasses.field(default_factory=dict)
  splits: dict[str, int] = dataclasses.field(default_factory=dict)
  num_problems: int = 0
  problems: list[Problem] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  @property
  def is_sound(self) -> bool:
    """Whether nothing is broken."""
    return not self.num_problems

  def add_problems(self, problems: Sequence[Problem]) -> None:
    """Counts problems, and keeps them up to `MAX_LISTED`."""
    self.num_problems += len(problems)
    self.problems += problems[: MAX_LISTED - len(self.problems)]
    for problem in problems:
      if problem.column in self.columns:
        self.columns[problem.column].num_broken += 1

  def as_json(self) -> str:
    """The report for programs."""
    content = dataclasses.asdict(self)
    content["problems"] = [problem._asdict() for problem in self.problems]
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"

  def as_text(self, *, num_shown: int = 20) -> str:
    """The report for people.

    Args:
      num_shown: how many problems to list.
    """
    depth = "files decoded" if self.deep else "headers of files read"
    lines = [f"{self.path}: {self.num_rows:,} rows, {depth}", ""]
    lines += _table(
      ["modality", "kind", "present", "share", "broken", "what"],
      [
        [
          name,
          column.kind,
          f"{column.num_present:,}",
          f"{column.num_present / max(self.num_rows, 1):.1%}",
          f"{column.num_broken:,}",
          _measures(column.ranges),
        ]
        for name, column in self.columns.items()
      ],
    )
    if self.splits:
      found = (f"{name or '(none)'} {n:,}" for name, n in self.splits.items())
      lines += ["", f"splits: {', '.join(found)}"]
    lines += [f"note: {note}" for note in self.notes]
    lines += ["", self._conclusion()]
    lines += [f"  {problem}" for problem in self.problems[:num_shown]]
    if self.num_problems > num_shown:
      lines.append(f"  ... and {self.num_problems - num_shown:,} more")
    return "\n".join(lines)

  def _conclusion(self) -> str:
    if self.is_sound:
      return "nothing is broken"
    return f"{self.num_problems:,} rows or cells are broken:"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(header, *rows)]
  return [
    "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
    for row in [header, *rows]
  ]


def _measures(ranges: Mapping[str, Range]) -> str:
  return "; ".join(_measure(name, range_) for name, range_ in ranges.items())


def _measure(name: str, found: Range) -> str:
  if name == "sound":
    return f"sound in {found.total:,.0f} of {found.count:,}"
  scaled, total = name, f"{_number(found.total)} {name}"
  scale = 1.0
  if name == "bytes":
    scaled, scale, total = "MB", 1e6, f"{_number(found.total / 1e6)} MB"
  least, most = found.least / scale, found.most / scale
  if least == most:
    each = f"{_number(least)} {scaled}"
  else:
    each = f"{_number(least)} to {_number(most)} {scaled}"
  is_sum = name in _SUMMED and found.count > 1
  return f"{each} (all {total})" if is_sum else each


_SUMMED: frozenset[str] = frozenset({"bytes", "seconds", "texts"})


def _number(value: float) -> str:
  if value == int(value) or abs(value) >= 1000:
    return f"{value:,.0f}"
  return f"{value:.3g}"
