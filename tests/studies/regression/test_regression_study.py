"""The study as the laboratory sees it: sets, sizes, descriptions, quantities."""

from __future__ import annotations

import pytest

from inlearn.core.contract import Task
from inlearn.lab.config import Seeds
from inlearn.studies.regression.config import RegressionConfig
from inlearn.studies.regression.study import RegressionStudy

SOME_SEEDS = Seeds().following(3)


def study_from(tree: dict) -> RegressionStudy:
    return RegressionConfig.model_validate(tree).build(SOME_SEEDS)


@pytest.mark.parametrize(
    "task, monitored",
    [
        ({}, ("train", "input_gains", "task_gains")),
        ({"count": 4}, ("train", "gaussian", "input_gains", "task_gains")),
        ({"vector": [1, 2, 3, 4]}, ("train", "gaussian", "input_gains", "task_gains")),
        ({"sequences": 9}, ("train", "heldout", "input_gains", "task_gains")),
    ],
)
def test_sets_are_offered_where_they_differ(task: dict, monitored: tuple[str, ...]):
    study = study_from({"task": task})
    assert study.monitored == monitored
    assert set(study.tasks) == {*monitored, "input_sweep", "task_sweep", "effective_weight"}
    assert all(isinstance(x, Task) for x in study.tasks.values())


def test_sizes_of_the_sets():
    study = study_from({"evaluation": {"rows": 50, "gain_rows": 7, "probe_rows": 2, "gains": [2, 4]}})
    sizes = {name: study.evaluation_rows(name) for name in study.tasks}
    assert sizes == {
        "train": 50,
        "input_gains": 14,
        "task_gains": 14,
        "input_sweep": 700,
        "task_sweep": 700,
        "effective_weight": 2 * 8 * 4,
    }


def test_the_rows_of_one_probe_stay_together():
    study = study_from({"task": {"dimension": 3}})
    assert {name: study.rows_together(name) for name in study.tasks} == dict.fromkeys(study.tasks, 1) | {
        "effective_weight": 3
    }


def test_a_description_gives_the_floor_of_every_learner():
    tables = dict(study_from({"task": {"count": 4}}).describe())
    facts = {row["fact"]: row["value"] for row in tables["The problem"]}
    assert facts["task vectors M"] == 4 and facts["task distribution"] == "discrete"
    floors = next(rows for title, rows in tables.items() if title.startswith("Squared error"))
    assert len(floors) == 9 and floors[-1]["example"] == "mean"
    assert set(floors[0]) == {"example", "ridge", "dmmse", "task_mean", "zero", "first_example"}
    assert floors[-1]["dmmse"] < floors[-1]["ridge"] < floors[-1]["zero"]


def test_quantities_are_the_studys_own_unless_told_otherwise():
    quantities = study_from({"task": {"dimension": 3, "noise_variance": 0.5}}).quantities()
    assert quantities["zero_loss"]() == 3.5
    assert quantities["zero_loss"](dimension=4, noise_variance=0.125) == 4.125
    assert quantities["ridge_floor_at"](position=0, rows=5) == pytest.approx(3.5)
