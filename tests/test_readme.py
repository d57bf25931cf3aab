"""The README's Python examples run, and its files exist."""

import doctest
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize(
  "page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_examples_of_a_page_run(page):
  result = doctest.testfile(str(page), module_relative=False)
  assert result.failed == 0
  assert result.attempted > 0 or page.name != "README.md"


@pytest.mark.parametrize(
  "page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_of_a_page_lead_somewhere(page):
  links = re.findall(r"\]\(([^)#]+)", page.read_text())
  local = [link for link in links if not link.startswith("https://")]
  assert local
  assert [x for x in local if not (page.parent / x).exists()] == []
