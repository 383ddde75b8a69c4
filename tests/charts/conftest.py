from __future__ import annotations

import pandas as pd
import pytest


def evaluation_rows(
    run: str, step: int | None, measure: str, means: dict[tuple[int, ...], float], **other
) -> list[dict]:
    """Rows of the long table with one mean a level; a standard error of a tenth of the mean unless one is given."""
    row = {
        "run": run,
        "step": step,
        "set": "train",
        "learner": "model",
        "measure": measure,
        "reference": None,
        "unit": "squared error",
        "by": "",
        "n": 100,
    }
    return [{**row, "level": level, "mean": mean, "se": mean / 10, **other} for level, mean in means.items()]


def long_table(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.assign(step=table["step"].astype("Int64"))


STEPS = (0, 1, 10, 100, 1000)


@pytest.fixture
def make_table():
    """rows -> long table, for tests that need their own."""
    return lambda *rows: long_table([each for some in rows for each in some])


@pytest.fixture
def make_rows():
    return evaluation_rows


@pytest.fixture
def table() -> pd.DataFrame:
    """One run that goes from answering 0 to ridge: loss 4 to 2, ridge's floor 1.5, zero's 4; gains 3 and 10."""
    rows = []
    for learner, floor in (("ridge", 1.5), ("zero", 4.0)):
        rows += evaluation_rows("a", None, "loss", {(): floor}, learner=learner)
        rows += evaluation_rows(
            "a", None, "loss", {(k,): floor - k / 4 for k in range(4)}, learner=learner, by="position"
        )
        gains = {(i,): floor * gain**2 for i, gain in enumerate((3, 10))}
        rows += evaluation_rows("a", None, "loss", gains, learner=learner, by="gain", set="input_gains")
        rows += evaluation_rows("a", None, "icl_1_4", {(): -0.75}, learner=learner)
        rows += evaluation_rows("a", None, "icl_1_2", {(): -0.25}, learner=learner)
    for done, step in enumerate(STEPS):
        loss = 4.0 - done / 2
        rows += evaluation_rows("a", step, "loss", {(): loss})
        rows += evaluation_rows("a", step, "loss", {(k,): loss - k * done / 16 for k in range(4)}, by="position")
        gains = {(i,): loss * gain**2 for i, gain in enumerate((3, 10))}
        rows += evaluation_rows("a", step, "loss", gains, by="gain", set="input_gains")
        rows += evaluation_rows("a", step, "distance", {(): 2.5 - done / 2}, reference="ridge")
        rows += evaluation_rows("a", step, "distance", {(): 0.01 + done / 2}, reference="zero")
        rows += evaluation_rows("a", step, "icl_1_4", {(): -0.1 * done}, se=None)
        rows += evaluation_rows("a", step, "icl_1_2", {(): -0.05 * done}, se=None)
    return long_table(rows)
