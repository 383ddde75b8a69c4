"""The names under which a run's numbers appear in trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEVELS = 32
"""Slices by one mark with more levels than this (a text's positions) stay in metrics.jsonl alone."""


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Names and values of one line of metrics.jsonl or references.jsonl.

    `training/loss` of a training line; `SET/MEASURE` and `SET/distance/REFERENCE` of the model, as in `record.best`;
    `…/MARK_3` for the fourth level where a line is sliced by one mark; `references/LEARNER/…` of an ideal learner.
    Values that are not finite are null there and left out here.
    """
    if line["event"] == "training":
        return {f"training/{key}": value for key, value in line.items() if key not in ("event", "step")}
    by = line["by"]
    if len(by) > 1 or len(line["at"]) > LEVELS:
        return {}
    parts = [line["set"], line["measure"], line["reference"]]
    name = "/".join(part for part in parts if part)
    if line["learner"] != "model":
        name = f"references/{line['learner']}/{name}"
    levels = zip(line["at"], line["mean"], strict=True)
    return {"/".join([name, *(f"{by[0]}_{i}" for i in at)]): mean for at, mean in levels if mean is not None}
