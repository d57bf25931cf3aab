"""Pieces of a self-contained HTML page: no script, no font, no address.

Every text is escaped here; callers pass plain strings.
"""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

_STYLE = """
:root { --ink: #222; --soft: #666; --line: #ddd; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 2.5rem 1.5rem 4rem;
  background: #fff; color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h1 { margin: 0 0 .25rem; font-size: 1.7rem; line-height: 1.25; }
h2 { margin: 2.5rem 0 .75rem; padding-bottom: .25rem; font-size: 1.15rem;
  border-bottom: 1px solid var(--line); break-after: avoid; }
.lead, figcaption, .note { color: var(--soft); }
.lead { margin: 0 0 1.5rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; }
.tiles div { flex: 1 1 9rem; border: 1px solid var(--line);
  border-radius: .4rem; padding: .7rem .9rem; }
.tiles dt { color: var(--soft); font-size: .82rem; }
.tiles dd { margin: 0; font-size: 1.5rem; font-weight: 600; }
.tiles dd small { display: block; color: var(--soft); font-size: .78rem;
  font-weight: 400; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .88rem; }
caption { padding-bottom: .4rem; text-align: left; color: var(--soft); }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line);
  text-align: right; overflow-wrap: normal; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
tbody th { white-space: nowrap; }
.facts td { text-align: left; overflow-wrap: anywhere; }
.facts th { color: var(--soft); font-weight: 400; }
figure { margin: 0; break-inside: avoid; }
img { display: block; max-width: 100%; height: auto; }
figcaption, .note { max-width: 46rem; font-size: .88rem; }
figcaption { margin-top: .5rem; }
tr, .tiles, .scroll { break-inside: avoid; }
@media print {
  @page { margin: 16mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  h2 { margin-top: 1.5rem; }
  .scroll { overflow: visible; }
  table { font-size: .8rem; }
  .tiles div { flex-basis: 5rem; }
  img { max-height: 20.5cm; object-fit: contain; object-position: left top; }
}
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
<p class="lead">{lead}</p>
{body}
</main>
</body>
</html>
"""


def page(title: str, lead: str, sections: Iterable[str]) -> str:
  """The whole document.

  Args:
    title: plain text.
    lead: plain text, one sentence under the title.
    sections: HTML.

  Returns:
    HTML.
  """
  return _PAGE.format(
    title=html.escape(title),
    lead=html.escape(lead),
    style=_STYLE,
    body="\n".join(sections),
  )


def section(heading: str, *parts: str) -> str:
  """A heading and what belongs to it."""
  body = "\n".join(parts)
  return f"<section>\n<h2>{html.escape(heading)}</h2>\n{body}\n</section>"


def note(text: str) -> str:
  """A paragraph in plain text."""
  return f'<p class="note">{html.escape(text)}</p>'


def tiles(entries: Iterable[tuple[str, Any, str]]) -> str:
  """Headline numbers: (name, value, remark)."""
  cells = "".join(
    f"<div><dt>{html.escape(name)}</dt><dd>{number(value)}"
    f"<small>{html.escape(remark)}</small></dd></div>"
    for name, value, remark in entries
  )
  return f'<dl class="tiles">{cells}</dl>'


def table(
  caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> str:
  """A table of numbers, each row headed by a name.

  Args:
    caption: plain text.
    columns: titles; the first one is that of the names.
    rows: a name and numbers each.

  Returns:
    HTML.
  """
  head = "".join(
    f'<th scope="col">{html.escape(name)}</th>' for name in columns
  )
  body = "".join(
    f'<tr><th scope="row">{html.escape(str(name))}</th>'
    + "".join(f"<td>{number(value)}</td>" for value in values)
    + "</tr>\n"
    for name, *values in rows
  )
  return (
    f'<div class="scroll"><table><caption>{html.escape(caption)}</caption>\n'
    f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
  )


def facts_table(facts: Iterable[tuple[str, str]]) -> str:
  """Names and texts, side by side."""
  rows = "".join(
    f'<tr><th scope="row">{html.escape(str(name))}</th>'
    f"<td>{html.escape(str(text))}</td></tr>\n"
    for name, text in facts
  )
  return f'<table class="facts"><tbody>\n{rows}</tbody></table>'


def figure(png: bytes, width: int, alt: str, caption: str) -> str:
  """An embedded image with its caption.

  Args:
    png: the image file.
    width: pixels of the screen it should take where there is room.
    alt: what to read where the image cannot be seen; plain text.
    caption: plain text.

  Returns:
    HTML.
  """
  data = base64.b64encode(png).decode("ascii")
  return (
    f'<figure><img width="{width}" alt="{html.escape(alt)}" '
    f'src="data:image/png;base64,{data}">'
    f"<figcaption>{html.escape(caption)}</figcaption></figure>"
  )


def number(value: Any) -> str:
  """A number as text: counts in full, measures with three decimals."""
  if value is None or not math.isfinite(value):
    return "–"
  if isinstance(value, int):
    return f"{value:,}".replace(",", "\u202f")
  return f"{value:.3f}"
