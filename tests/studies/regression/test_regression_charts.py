from __future__ import annotations

import json

import pandas as pd
import pytest
import vl_convert

from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab.config import Seeds
from inlearn.runs.folder import RunFolder
from inlearn.runs.metrics import evaluation_table
from inlearn.studies.regression.charts import charts
from inlearn.studies.regression.config import RegressionConfig

GAINS = (3.0, 10.0)
PROGRESS = {0: 0.0, 10: 0.5, 100: 0.9}


def evaluated_run(folder, **task) -> tuple[pd.DataFrame, dict]:
    """(long table, labels) of a run whose answers are ridge's times 0, 0.5 and 0.9, measured by the real study."""
    asked = {"task": {"dimension": 2, "examples": 8, **task}}
    asked["evaluation"] = {"rows": 32, "gains": GAINS, "gain_rows": 32}
    study = RegressionConfig.model_validate(asked).build(Seeds().following(0))
    evaluator = Evaluator(study, Seeds().following(0))
    ridge = study.references("train")[0]
    lines = []
    for step, part in PROGRESS.items():
        found = evaluator.learner("model", lambda batch, part=part: part * ridge.predict(batch), study.monitored)
        lines += [{**line, "step": step} for line in found]
    run = RunFolder.create(folder, "0123456789ab", {"config": {}}, {"kind": "regression"})
    for name, some in (("metrics.jsonl", lines), ("references.jsonl", evaluator.references())):
        (run.path / name).write_text("".join(json.dumps(line) + "\n" for line in some))
    labels = {name: dict(each.labels) for name, each in study.tasks.items() if each.labels}
    return evaluation_table(run), labels


@pytest.fixture(scope="module")
def finite(tmp_path_factory):
    return evaluated_run(tmp_path_factory.mktemp("runs"), count=4, sequences=64)


def points(chart) -> dict[tuple[str, int], float]:
    """{(series, step): mean} of a chart over training."""
    rows = [row for some in chart.to_dict()["datasets"].values() for row in some]
    return {(row["series"], row["step"]): row["mean"] for row in rows if "interval" in row}


def named(table, labels, title: str):
    return next(chart for name, _, chart in charts(table, labels) if name == title)


def test_a_finite_study_has_every_figure(finite):
    assert [title for title, _, _ in charts(*finite)] == [
        "Loss at each context position, heldout",
        "Loss at each context position, gaussian",
        "In-context learning scores",
        "Prediction norm",
        "Loss with inputs scaled up",
        "Loss over gain², inputs",
        "Loss with task vectors scaled up",
        "Loss over gain², task vectors",
    ]


def test_a_gaussian_study_leaves_out_what_it_has_not(tmp_path):
    titles = [title for title, _, _ in charts(*evaluated_run(tmp_path))]
    assert titles[0] == "In-context learning scores" and len(titles) == 6


def test_every_figure_compiles_and_has_a_caption(finite):
    for title, caption, chart in charts(*finite):
        svg = vl_convert.vegalite_to_svg({**chart.to_dict(), "width": 500})
        assert "ridge" in svg, title
        assert caption.endswith(".")


def test_gains_bear_their_labels_and_the_square_is_divided_out(finite):
    table, labels = finite
    raw = points(named(table, labels, "Loss with inputs scaled up"))
    scaled = points(named(table, labels, "Loss over gain², inputs"))
    assert {series for series, _ in raw} == {"gain 3", "gain 10"}
    for gain in GAINS:
        for step in PROGRESS:
            key = (f"gain {gain:g}", step)
            assert raw[key] / gain**2 == pytest.approx(scaled[key], rel=1e-5)


def test_scores_are_differences_of_the_loss_along_the_context(finite):
    table, labels = finite
    scores = points(named(table, labels, "In-context learning scores"))
    assert {series for series, _ in scores} == {"examples 1 to 4", "examples 4 to 8", "examples 1 to 8"}
    loss = table[(table["set"] == "train") & (table["measure"] == "loss") & (table["by"] == "position")]
    last = loss[(loss["learner"] == "model") & (loss["step"] == 100)].set_index("level")["mean"]
    assert scores[("examples 1 to 8", 100)] == pytest.approx(last[(7,)] - last[(0,)], rel=1e-5)


def test_the_norm_starts_at_nothing_and_grows_with_the_square(finite):
    table, labels = finite
    norm = points(named(table, labels, "Prediction norm"))
    assert norm[("model", 0)] == 0.0
    assert norm[("model", 100)] / norm[("model", 10)] == pytest.approx(0.81 / 0.25, rel=1e-5)


def test_an_empty_table_has_no_figures(finite):
    table, labels = finite
    assert charts(table[:0], labels) == []
