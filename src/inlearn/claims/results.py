"""results/claims/<study>/<claim>.json (and .svg): the latest result of every claim, small enough to commit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlearn.core.files import read_json, write_json, write_text

FOLDER = Path("results/claims")


def latest(claim: str) -> dict[str, Any] | None:
    path = FOLDER / f"{claim}.json"
    return read_json(path) if path.exists() else None


def keep(result: Mapping[str, Any]) -> Path:
    path = FOLDER / f"{result['id']}.json"
    write_json(path, result)
    if result["chart"] is not None:
        write_text(path.with_suffix(".svg"), draw(result))
    return path


def draw(result: Mapping[str, Any]) -> str:
    """The claim's chart as SVG."""
    import pandas as pd

    from inlearn.charts.claims import series_over_steps, series_over_x
    from inlearn.reports.figures import svg

    chart = result["chart"]
    table = pd.DataFrame(chart["points"])
    over = series_over_steps if chart.get("over") == "steps" else series_over_x
    drawn = over(table, chart["x"], chart["y"], chart["log_x"], chart["log_y"], result["title"])
    return svg(drawn.to_dict())
