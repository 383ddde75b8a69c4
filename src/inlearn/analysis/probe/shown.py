"""A probe's scores as a table for the terminal and as a heat map."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from inlearn.analysis.probe.features import EMBED
from inlearn.analysis.results import Result
from inlearn.charts.heatmap import heat_map

BLOCKS = {"trained": "trained", "untrained": "untrained", "shuffled": "shuffled labels", "baseline": ""}


def tables(result: Result) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
    """Every target, entries of one thing by their common score, by every activation."""
    score, low, high = (result.arrays[name] for name in ("score", "low", "high"))
    networks, activations, targets = (list(result.labels[axis]) for axis in ("network", "activation", "target"))
    embedded = activations.index(EMBED)

    def of(network: str, activation: int, target: int) -> float:
        return float(score[networks.index(network), activation, target]) if network in networks else math.nan

    rows = []
    for t, target in shown(targets):
        for a, activation in enumerate(activations):
            interval = f"{low[0, a, t]:.3f} – {high[0, a, t]:.3f}"
            controls = of("untrained", a, t), of("shuffled", a, t), float(score[0, embedded, t])
            baseline = float(result.arrays["baseline"][t])
            unit = result.facts["units"][target]
            rows.append((target, activation, unit, float(score[0, a, t]), interval, *controls, baseline))
    columns = ("target", "activation", "score", "trained", "95 % interval", "untrained", "shuffled labels",
               "embedded input", "likeliest class")  # fmt: skip
    yield f"set '{result.facts['set']}', {result.facts['rows']:,} rows", columns, rows


def figures(result: Result) -> Iterable[tuple[str, str, Any]]:
    score, low, high = (result.arrays[name] for name in ("score", "low", "high"))
    targets, cells = list(result.labels["target"]), []
    for t, target in shown(targets):
        name = target if result.facts["units"][target] == "accuracy" else f"{target} (R²)"
        for n, network in enumerate(result.labels["network"]):
            for a, activation in enumerate(result.labels["activation"]):
                if math.isfinite(score[n, a, t]):
                    note = f"{low[n, a, t]:.3f} – {high[n, a, t]:.3f}"
                    cells.append((BLOCKS[network], short(activation), name, float(score[n, a, t]), note))
        cells.append((BLOCKS["baseline"], "likeliest class", name, float(result.arrays["baseline"][t]), "–"))
    table = pd.DataFrame(cells, columns=["block", "across", "down", "value", "note"])
    blocks = [title for title in BLOCKS.values() if title in set(table["block"])]
    yield (
        "What can be read off the activations",
        "The share of questions on unseen rows at which a linear read-out of an activation gives the right class (R² "
        "for quantities). Beside the network: an untrained one of the same shape, the same network with labels of "
        "other rows, and what the commonest class alone scores. The first column of a block is the embedded input, "
        "which knows nothing of the row before. What an untrained network has too was not learnt.",
        heat_map(table, blocks, "accuracy, or R²", (0.0, 1.0)),
    )


def shown(targets: Sequence[str]) -> list[tuple[int, str]]:
    """Places and names; of entries in brackets, what they are entries of."""
    return [(place, target) for place, target in enumerate(targets) if "[" not in target]


def short(activation: str) -> str:
    """blocks.0.recurrence.hidden as 0 hidden."""
    parts = activation.split(".")
    return f"{parts[1]} {parts[-1]}" if parts[0] == "blocks" else activation
