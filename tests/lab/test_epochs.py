"""`training.epochs`: what it becomes, and what it refuses."""

from __future__ import annotations

import pytest

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.config import compose, identity

FINITE = ("task.sequences=100", "training.batch=8")
CURRICULUM = 'training.phases=[{"epochs": 2}, {"steps": 5}, {"epochs": 0.5, "study": {"task": {"sequences": 33}}}]'


def composed(*words):
    said = []
    return compose(discovery.study("regression"), words, say=said.append), said


def test_epochs_are_the_steps_that_reach_the_last_row():
    config, said = composed(*FINITE, "training.epochs=3")
    assert config.training.steps == 38 and said == ["training.epochs = 3: 38 steps of 8 of 100 rows"]
    found = discovery.study("regression")
    same, _ = composed(*FINITE, "training.steps=38")
    assert identity(config, found, None) == identity(same, found, None)
    assert composed(*FINITE, "training.epochs=0.01")[0].training.steps == 1


def test_phases_count_epochs_of_their_own_data():
    training = composed(*FINITE, CURRICULUM)[0].training
    assert [phase.steps for phase in training.phases] == [25, 5, 3] and training.steps == 33


def test_what_is_given_last_counts():
    base = {"study": {"kind": "regression", "task": {"sequences": 100}}, "training": {"epochs": 3, "batch": 10}}
    found = discovery.study("regression")
    assert compose(found, [], base).training.steps == 30
    assert compose(found, ["training.steps=7"], base).training.steps == 7
    assert compose(found, ["training.batch=20"], base).training.steps == 15
    assert compose(found, ['training.phases=[{"epochs": 1}]'], base).training.steps == 10
    assert compose(found, ["training.phases=[]"], base).training.steps == 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["training.epochs=3"], "training.epochs = 3: the rows of this study never come round"),
        ([*FINITE, "training.epochs=0"], "training.epochs = 0: expected a positive number"),
        ([*FINITE, "training.epochs=inf"], "training.epochs = inf: expected a positive number"),
        ([*FINITE, "training.epochs=many"], "training.epochs = many: expected a positive number"),
        ([*FINITE, "training.epochs=1", "training.steps=5"], "training.epochs = 1 and training.steps = 5"),
        ([*FINITE, "training.epochs=1", CURRICULUM], "training.epochs beside training.phases"),
        ([*FINITE, 'training.phases=[{"epochs": 1, "steps": 2}]'], "training.phases.0 has epochs and steps"),
        ([*FINITE, 'training.phases=[{"epoch": 1}]'], "epoch"),
        ([*FINITE, 'training.phases=[{"steps": "x"}, {"epochs": 1}]'], "training.phases.0.steps = x"),
        ([*FINITE, 'training.phases=[{"steps": null}, {"epochs": 1}]'], "training.phases.0.steps"),
        ([*FINITE, 'training.phases=[{"study": {}}, {"epochs": 1}]'], "training.phases.0.steps"),
        ([*FINITE, "training.epochs=1", "training.batch=none"], "training.batch|batch = none"),
    ],
)
def test_refusals(words, said):
    with pytest.raises(UserError, match=said):
        composed(*words)
