"""Runs opened together as one model with a member axis, against each run opened alone."""

from __future__ import annotations

import pytest
import torch

import inlearn
from inlearn.core.errors import UserError
from inlearn.lab.session import start
from inlearn.lab.stacked import start_together


def quiet(text: str) -> None:
    pass


def words(tiny, **own) -> list[str]:
    asked = dict(text.split("=", 1) for text in tiny) | {"training.steps": 8, "record.checkpoints.steps": 3}
    return [f"{key}={value}" for key, value in (asked | {k.replace("__", "."): v for k, v in own.items()}).items()]


def test_runs_opened_together_have_a_member_axis(tiny, tmp_path):
    many = [words(tiny, seed=1), words(tiny, seed=2, task__count=4), words(tiny, seed=3, training__rate=0.1)]
    start_together("regression", many, tmp_path, quiet)
    runs = inlearn.open_runs(root=tmp_path)
    assert list(runs.table["run"]) == [run.id for run in runs.runs] and len(runs) == 3
    inputs = torch.randn(3, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    for step in ("last", "best", 3):
        weights, model = runs.weights(step), runs.model(step)
        outputs, _ = model(inputs)
        assert not model.training and outputs.shape[:3] == (3, 5, 6)
        for e, run in enumerate(runs.runs):
            alone = inlearn.open(run.id, tmp_path).checkpoint(step).model()
            assert all(torch.equal(weights[name][e], value) for name, value in alone.named_parameters())
            torch.testing.assert_close(outputs[e], alone(inputs[e])[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="step 4"):
        runs.weights(4)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"model__width": 8}, r"model\.width = .* in run"),
        ({"model__activation": "relu"}, r"model\.activation = .* in run"),
        ({"precision": "float64"}, r"precision = .* in run"),
        ({"task__examples": 2}, r"table\.weight is .* in run"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_runs_that_compute_otherwise_are_no_members_of_one_model(tiny, tmp_path, own, said):
    for more in ({}, own):
        start("regression", words(tiny, training__until=1, **more), tmp_path, quiet)
    runs = inlearn.open_runs(root=tmp_path)
    with pytest.raises(UserError, match=said):
        runs.model()
    if "model__width" in own:
        with pytest.raises(UserError, match=r"weight is \(.*\) in run \w+ and \(.*\) in run \w+; expected"):
            runs.weights()
