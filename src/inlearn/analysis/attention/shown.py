"""Where heads look, as a table for the terminal and as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from inlearn.analysis.results import Result
from inlearn.charts.heatmap import heat_map

EVEN = "even"


def tables(result: Result) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
    """Every kind of position by every head, the head that looks there most first."""
    share, low, high = (result.arrays[name] for name in ("share", "low", "high"))
    controls = "untrained" in result.labels["network"]
    rows = []
    for k, kind in enumerate(result.labels["kind"]):
        heads = sorted(range(share.shape[1]), key=lambda head, k=k: -share[0, head, k])
        for h in heads:
            untrained = float(share[1, h, k]) if controls else math.nan
            interval = f"{low[0, h, k]:.3f} – {high[0, h, k]:.3f}"
            even = float(result.arrays["even"][k])
            rows.append((kind, result.labels["head"][h], float(share[0, h, k]), interval, untrained, even))
    columns = ("looks at", "layer.head", "share", "95 % interval", "untrained", "even attention")
    yield f"set '{result.facts['set']}', {result.facts['rows']:,} rows", columns, rows


def figures(result: Result) -> Iterable[tuple[str, str, Any]]:
    share, low, high = (result.arrays[name] for name in ("share", "low", "high"))
    cells = []
    for k, kind in enumerate(result.labels["kind"]):
        for n, network in enumerate(result.labels["network"]):
            for h, head in enumerate(result.labels["head"]):
                if math.isfinite(share[n, h, k]):
                    note = f"{low[n, h, k]:.3f} – {high[n, h, k]:.3f}"
                    cells.append((network, str(head), kind, float(share[n, h, k]), note))
        if math.isfinite(even := float(result.arrays["even"][k])):
            cells.append(("", EVEN, kind, even, "–"))
    table = pd.DataFrame(cells, columns=["block", "across", "down", "value", "note"])
    blocks = [*result.labels["network"], ""]
    yield (
        "Where heads look",
        "The share of a head's attention, at questions, that goes to positions of a kind, over the questions that have "
        "such positions. match[k]: where the last k symbols stood before; after match[k]: what came next there, which "
        "a head that copies looks at. Columns are layer.head; the last one is attention spread evenly.",
        heat_map(table, blocks, "share of attention", (0.0, 1.0)),
    )
