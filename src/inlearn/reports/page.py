"""One self-contained HTML page: a summary, interactive charts, facts and tables. It never asks the network.

The same content gives the same bytes: no times, no random names. Reports, comparisons, claims and descriptions of
data all use it.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import altair as alt
import jinja2
import pandas as pd

from inlearn.core.files import write_text
from inlearn.reports import figures as drawing


@dataclass(frozen=True)
class Section:
    """A chart with its heading and one paragraph on what it shows."""

    title: str
    caption: str
    chart: alt.TopLevelMixin


def write_page(
    path: Path,
    figures: Path,
    title: str,
    summary: str,
    sections: Sequence[Section] = (),
    facts: Sequence[tuple[str, str]] = (),
    tables: Sequence[tuple[str, pd.DataFrame]] = (),
) -> None:
    """Write the page to `path`, and every chart as SVG into the folder `figures`, named by its section's title.

    `summary` is plain text; a blank line starts a paragraph. `facts` are (name, value) rows. The page is written
    last and atomically, so it never links a figure that is not there. Raises EnvironmentFault where the disk refuses.
    """
    charts = []
    taken: set[str] = set()
    for section in sections:
        spec = section.chart.to_dict()
        stem = drawing.file_name(section.title)
        name = next(name for name in chain([stem], (f"{stem}-{i}" for i in count(2))) if name not in taken)
        taken.add(name)
        file = figures / f"{name}.svg"
        write_text(file, drawing.svg(spec))
        link = quote(Path(os.path.relpath(file, path.parent)).as_posix())
        charts.append({"name": name, "title": section.title, "caption": section.caption, "spec": spec, "link": link})
    content = _template().render(
        title=title,
        paragraphs=[part.strip() for part in summary.split("\n\n") if part.strip()],
        charts=charts,
        facts=facts,
        tables=[_table(name, frame) for name, frame in tables],
        bundle=drawing.vega_bundle() if charts else "",
    )
    write_text(path, content)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")


def _table(title: str, frame: pd.DataFrame) -> dict[str, Any]:
    """What the template needs: texts, and which columns are numbers and stand to the right."""
    values = [list(frame[name]) for name in frame.columns]
    right = [all(isinstance(v, numbers.Number) or _missing(v) for v in column) for column in values]
    rows = [[cell(value) for value in row] for row in zip(*values, strict=True)]
    return {"title": title, "columns": [str(name) for name in frame.columns], "right": right, "rows": rows}


def _missing(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def cell(value: Any) -> str:
    """A value as a reader wants it: four significant digits, thousands in whole numbers, a dash for nothing."""
    if _missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.4g}" if abs(float(value)) < 1e4 else f"{float(value):,.0f}"
    return str(value)
