"""Training batches of several runs drawn at once against what each run's own task draws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.draws import Address, Addresses
from inlearn.lab.config import Seeds
from inlearn.studies.regression import combined as module
from inlearn.studies.regression.config import RegressionConfig, TaskConfig
from inlearn.studies.regression.tasks import Regression

FIELDS = ("inputs", "targets", "weights")


def task(seed: int, examples: int = 3, dimension: int = 2, **fields) -> Regression:
    asked = TaskConfig(examples=examples, dimension=dimension, **fields)
    return RegressionConfig(task=asked).build(Seeds().following(seed), 4).tasks["train"]


def assert_own(tasks, seeds, steps, together, rows, first=0) -> None:
    for e, (one, own, step) in enumerate(zip(tasks, seeds, steps, strict=True)):
        alone = one.sample(Address(own, "data", step), rows, first)
        assert together.columns == alone.columns
        for name in FIELDS:
            assert torch.equal(getattr(together, name)[e], getattr(alone, name)), (name, e)


KINDS = st.sampled_from(
    [{}, {"prior_variance": 3.0}, {"count": 1}, {"count": 5}, {"count": 300}, {"vector": True}, {"noise_variance": 0.0}]
)


@given(
    kinds=st.lists(KINDS, min_size=1, max_size=5),
    examples=st.integers(1, 5),
    dimension=st.integers(1, 5),
    rows=st.integers(1, 9),
    first=st.integers(0, 5),
    starts=st.lists(st.integers(0, 40), min_size=5, max_size=5),
)
@settings(max_examples=30, deadline=None)
def test_each_member_gets_what_its_own_task_draws(kinds, examples, dimension, rows, first, starts):
    """In whatever order of priors, at odd sizes, at steps of their own, through several blocks and a jump back."""
    own = [{**k, "vector": (1.5,) * dimension} if k.get("vector") else k for k in kinds]
    tasks = [task(e, examples, dimension, **fields) for e, fields in enumerate(own)]
    seeds = tuple(Seeds().following(e) for e in range(len(tasks)))
    many = Regression.combined(tasks)
    for later in (0, 1, 15, 16, 40, 3):
        steps = [start + later for start in starts[: len(tasks)]]
        drawn = many.sample(Addresses(seeds, "data", torch.tensor(steps)), rows, first)
        assert_own(tasks, seeds, steps, drawn, rows, first)


def test_members_that_drift_apart_are_drawn_afresh():
    tasks, seeds = [task(0), task(1)], (Seeds().following(0), Seeds().following(1))
    many = Regression.combined(tasks)
    for steps in ([0, 0], [1, 0], [2, 1], [1, 7], [1, 7]):
        assert_own(tasks, seeds, steps, many.sample(Addresses(seeds, "data", torch.tensor(steps)), 4), 4)


def test_large_batches_are_drawn_one_step_at_a_time(monkeypatch):
    tasks, seeds = [task(0), task(1, count=7)], (Seeds().following(0), Seeds().following(1))
    for numbers in (1, 100, 1 << 20):
        monkeypatch.setattr(module, "NUMBERS", numbers)
        many = Regression.combined(tasks)
        for step in (3, 4, 19):
            assert_own(tasks, seeds, [step] * 2, many.sample(Addresses(seeds, "data", torch.tensor([step] * 2)), 5), 5)


@pytest.mark.parametrize("other", [{"sequences": 9}, {"examples": 4}, {"dimension": 3}])
def test_what_cannot_be_drawn_together_is_left_to_each(other):
    assert Regression.combined([task(0), task(1, **other)]) is None
