"""Tables, for the terminal and in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments import workdir


class Table(NamedTuple):
  """Cells of text under a title."""

  title: str
  header: Sequence[str]
  rows: Sequence[Sequence[str]]
  of_numbers: bool = True  # then columns but the first are set right


def as_text(table: Table) -> str:
  """The table for a terminal."""
  lines = [table.header, *table.rows]
  widths = [max(map(len, column)) for column in zip(*lines)]
  body = (
    "  ".join(
      cell.rjust(width) if table.of_numbers and column else cell.ljust(width)
      for column, (cell, width) in enumerate(zip(line, widths))
    ).rstrip()
    for line in lines
  )
  return "\n".join([table.title, *body])


def as_markdown(table: Table) -> str:
  """The table in Markdown, below its title as a paragraph."""
  right = "---:" if table.of_numbers else "---"
  lines = [table.header, ["---", *[right] * (len(table.header) - 1)]]
  body = (f"| {' | '.join(line)} |" for line in [*lines, *table.rows])
  return "\n".join([f"**{table.title}**", "", *body])


def check_markdown(path: Path, name: str) -> None:
  """Checks that tables can be written into a page.

  Args:
    path: The page. If there is none, it will be made.
    name: Which tables. They stand between `<!-- begin NAME -->` and
      `<!-- end NAME -->`.

  Raises:
    ValueError: If there is a page without such markers.
  """
  if path.exists():
    _parts(path, name)


def write_markdown(path: Path, name: str, text: str) -> None:
  """Writes tables into a page, in place of those that are there.

  Args:
    path: The page.
    name: Which tables, see `check_markdown`.
    text: The tables in Markdown.

  Raises:
    ValueError: If the page has no place for them.
  """
  begin, end = _markers(name)
  before, after = _parts(path, name) if path.exists() else ("", "\n")
  path.parent.mkdir(parents=True, exist_ok=True)
  workdir.write_atomically(
    path, f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"
  )


def _markers(name: str) -> tuple[str, str]:
  return f"<!-- begin {name} -->", f"<!-- end {name} -->"


def _parts(path: Path, name: str) -> tuple[str, str]:
  """What comes before and after the tables of a page."""
  begin, end = _markers(name)
  before, found_begin, rest = path.read_text().partition(begin)
  _, found_end, after = rest.partition(end)
  if not (found_begin and found_end):
    raise ValueError(
      f"{path} has no place for the tables; add the lines {begin} and {end}, "
      "or choose a file that does not exist"
    )
  return before, after
