"""The report of a run: one HTML file that opens offline, and its figures.

`curves`, `matrix`, `projection` and `retrieved` each draw one kind of figure
and return it; `plates` gives figures their words, `page` is the HTML, and
`writer` puts it all into a folder.
"""

from pmrl_jax.evaluation.report.retrieved import Display
from pmrl_jax.evaluation.report.writer import write_report

__all__ = ["Display", "write_report"]
