"""The study as the laboratory sees it: sets, sizes, descriptions, charts, and a model that learns to recall."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
import vl_convert

from inlearn.core.contract import Task
from inlearn.lab.config import Seeds
from inlearn.lab.session import start
from inlearn.runs.metrics import evaluation_table
from inlearn.studies.recall.charts import charts
from inlearn.studies.recall.config import RecallConfig
from inlearn.studies.recall.study import RecallStudy

PAIRS = (2, 3, 4)


def study_from(tree: dict) -> RecallStudy:
    return RecallConfig.model_validate(tree).build(Seeds().following(3))


def test_both_sets_are_in_every_run():
    study = study_from({"evaluation": {"rows": 50, "pairs": [2, 5, 9], "pair_rows": 7}})
    assert study.monitored == ("train", "pairs") == tuple(study.tasks)
    assert [study.evaluation_rows(name) for name in study.monitored] == [50, 21]
    assert all(isinstance(task, Task) for task in study.tasks.values())


def test_a_description_says_how_far_back_keys_lie():
    tables = dict(study_from({"task": {"pairs": [2, 4]}}).describe())
    facts = {row["fact"]: row["value"] for row in tables["The problem"]}
    assert facts["most pairs that fit"] == 16 and facts["pairs of a training row"] == "2, 4"
    losses = {row["pairs"]: row for row in tables["Loss of the ideal learners (nats)"]}
    assert losses[8] == {"pairs": 8, "look up": 0.0, "values": round(math.log(8), 4), "uniform": round(math.log(32), 4)}
    gaps = next(rows for title, rows in tables.items() if title.startswith("Share of questions"))
    assert [row["pairs"] for row in gaps] == [1, 2, 4, 8, 16]
    for row in gaps:
        assert sum(share for name, share in row.items() if name != "pairs") == pytest.approx(1.0, abs=0.01)
    # One pair: its key lies 2 + 2g back, and g = 0 has 1 in sum of 1/g^0.99 of the odds.
    assert gaps[0]["2+"] == pytest.approx(1 / sum(g**-0.99 for g in range(1, 32)), abs=0.06)


# ---------------------------------------------------------------- a model that learns


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A transformer of two layers and 10,000 parameters after 300 steps, a few seconds."""
    torch.set_num_threads(1)
    asked = (
        *("task.vocabulary=32", "task.length=24", "task.pairs=[2, 3, 4]", "training.batch=64", "training.steps=300"),
        *("model.width=32", "model.heads=1", "model.mlp=0", "model.init=uniform", "training.rate=0.01"),
        *("evaluation.rows=64", "evaluation.pairs=[2, 3, 4, 6]", "evaluation.pair_rows=64"),
        *('record.evaluations={"kind":"every","steps":100}', 'record.checkpoints={"kind":"never"}'),
    )
    return start("recall", asked, tmp_path_factory.mktemp("runs"), lambda text: None)


def by_pairs(table: pd.DataFrame, learner: str, measure: str) -> dict[int, float]:
    rows = table[(table["learner"] == learner) & (table["measure"] == measure) & (table["set"] == "pairs")]
    rows = rows[rows["by"] == "pairs"]
    if learner == "model":
        rows = rows[rows["step"] == rows["step"].max()]
    return {level[0]: mean for level, mean in zip(rows["level"], rows["mean"], strict=True)}


def test_a_small_transformer_learns_to_recall(learnt):
    table = evaluation_table(learnt.folder)
    recalled = by_pairs(table, "model", "accuracy")
    assert set(recalled) == {2, 3, 4, 6}
    assert min(recalled[count] for count in PAIRS) > 0.9
    assert by_pairs(table, "values", "loss") == pytest.approx({count: math.log(count) for count in (2, 3, 4, 6)})
    assert max(by_pairs(table, "model", "loss")[count] for count in PAIRS) < 0.5
    first = table[(table["learner"] == "model") & (table["step"] == 0) & (table["measure"] == "accuracy")]
    assert first["mean"].mean() < 0.2


def test_its_charts_compile_and_hold_the_tables_numbers(learnt):
    table = evaluation_table(learnt.folder)
    found = charts(table)
    assert [title for title, _, _ in found] == [
        "Recall against the number of pairs",
        "Rows recalled whole",
        "Recall over training",
        "Recall against the gap",
    ]
    for _, caption, chart in found:
        assert caption.endswith(".")
        svg = vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 500})
        assert "fraction" in svg and ("step 300" in svg or "6 pairs" in svg)
    rows = [row for some in found[0][2].to_dict()["datasets"].values() for row in some if "interval" in row]
    drawn = {row["level"]: row["mean"] for row in rows if row["series"] == "step 300"}
    assert drawn == pytest.approx({f"{k}": v for k, v in by_pairs(table, "model", "accuracy").items()}, rel=1e-5)
    assert {row["series"] for row in rows} == {"step 0", "step 100", "step 200", "step 300", "look up", "values",
                                               "uniform"}  # fmt: skip


def test_an_empty_table_has_no_charts(learnt):
    assert charts(evaluation_table(learnt.folder)[:0]) == []
