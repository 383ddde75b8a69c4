from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from inlearn.charts import positions, training
from inlearn.reports.page import Section

FLOORS = {"ridge": 1.655, "dmmse": 1.2, "task_mean": 3.9, "zero": 4.125, "first_example": 3.2}
PAGE_STEPS = [0, *sorted({round(10 ** (i / 8)) for i in range(8, 46)})]


@pytest.fixture
def trained() -> pd.DataFrame:
    """The long table of a run on 16 tasks that answers 0, then as ridge would, then as dMMSE would."""
    rows: list[dict] = []

    def add(step, learner, measure, levels, by="", reference=None, unit="squared error"):
        head = {"run": "0123456789ab", "step": step, "set": "train", "learner": learner, "measure": measure}
        head |= {"reference": reference, "unit": unit, "by": by, "n": 1024}
        rows.extend(head | {"level": level, "mean": mean, "se": 0.02 * abs(mean)} for level, mean in levels.items())

    def along(first: float, mean: float) -> dict[tuple[int, ...], float]:
        shape = np.exp(-np.arange(8) / 3)
        return {(k,): float(mean + (first - mean) * (s - shape.mean())) for k, s in enumerate(shape)}

    for learner, floor in FLOORS.items():
        add(None, learner, "loss", {(): floor})
        add(None, learner, "loss", along(4.1, floor), "position")
    for step in PAGE_STEPS:
        learned = 1 / (1 + (700 / (step + 1)) ** 2)  # from 0 to in-context
        recalled = 1 / (1 + (60_000 / (step + 1)) ** 2)  # from in-context to in-weights
        loss = 4.15 - 2.4 * learned - 0.4 * recalled
        add(step, "model", "loss", {(): loss})
        add(step, "model", "loss", along(4.1, loss), "position")
        distances = {
            "ridge": 2.5 * (1 - learned) + 0.08 + 0.5 * recalled,
            "dmmse": 3.0 * (1 - learned) + 0.6 - 0.5 * recalled,
            "task_mean": 0.2 + 2.6 * learned,
            "zero": 0.02 + 2.5 * learned,
            "first_example": 1.3 + 0.3 * learned,
        }
        for reference, distance in distances.items():
            add(step, "model", "distance", {(): distance}, reference=reference)
    table = pd.DataFrame(rows)
    return table.assign(step=table["step"].astype("Int64"))


@pytest.fixture
def page_sections(trained) -> list[Section]:
    batches = pd.DataFrame({"step": np.arange(10, 400_000, 997)}).assign(
        loss=lambda t: 1.8 + 2.3 / (1 + t["step"] / 700)
    )
    return [
        Section("Where is the model heading?", "Distances.", training.distances_over_training(trained, "train")),
        Section("Loss over training", "Losses.", training.loss_over_training(trained, batches, "train")),
        Section("Loss at each context position", "Positions.", positions.loss_per_position(trained, "train")),
    ]
