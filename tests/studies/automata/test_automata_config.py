"""What can be asked for, and what is refused with a reason."""

from __future__ import annotations

import math

import pytest

from inlearn.core.errors import UserError
from inlearn.lab import discovery
from inlearn.lab.build import build
from inlearn.lab.config import compose
from inlearn.lab.signature import signature
from inlearn.studies.automata.config import MachinesConfig


def asked(*overrides: str):
    return compose(discovery.study("automata"), list(overrides))


@pytest.mark.parametrize("states, actions, length", [(3, 3, 19), (5, 5, 80), (5, 8, 147), (8, 8, 266), (2, 1, 1)])
def test_lengths_follow_the_published_rule(states: int, actions: int, length: int):
    config = MachinesConfig(states=states, actions=actions, demos=2)
    assert config.walk(None) == length == max(1, math.floor(states * actions * math.log(states * actions)))
    assert config.walk(7) == 7


@pytest.mark.parametrize(
    "overrides, reason",
    [
        (["task.states=9"], r"task\.states = 9: expected less than or equal to 8"),
        (["task.states=1"], r"task\.states = 1: expected greater than or equal to 2"),
        (["task.actions=11"], r"task\.actions = 11: expected less than or equal to 10"),
        (["task.actions=0"], r"task\.actions = 0: expected greater than or equal to 1"),
        (["task.demo_length=0"], r"task\.demo_length = 0: expected greater than or equal to 1"),
        (["task.query_length=0"], r"task\.query_length = 0: expected greater than or equal to 1"),
        (["task.demos=4"], r"task\.demos = 4, but each demonstration starts from another of task\.states = 3"),
        (["task.jitter=1"], r"task\.jitter = 1: expected less than 1"),
        (["task.outputs=4"], r"task\.outputs = 4, but each is shown by one at least of task\.states = 3"),
        (["task.defined=0.3"], r"task\.defined = 0\.3 leaves 3 of 9 pairs a next state; expected at least 4"),
        (["task.head=states", "task.relabel=true"], "rows show all 8 state symbols; expected all"),
        (["task.connected=true", "task.absorbing=one"], "nothing is reached from that state"),
        (["evaluation.query_lengths=[200,200]"], "names a length twice"),
        (["data=file"], r"data\.path is missing"),
        (["data=cached", "data.train=0"], r"data\.train = 0: expected greater than 0"),
        (["data=fresh", "data.train=5"], r"unknown key 'study\.data\.train'"),
        (["task.state=4"], r"unknown key 'study\.task\.state'; did you mean 'study\.task\.states'"),
        (["supervision=all"], "supervision = all: expected 'query' or 'dense'"),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(overrides: list[str], reason: str):
    with pytest.raises(UserError, match=reason):
        asked(*overrides)


def test_a_preset_that_cannot_be_generated_says_which_constraint():
    config = asked("preset=absorption", "data=fresh", "task.states=2", "task.actions=2", "task.demos=2",
                   "training.steps=5")  # fmt: skip
    with pytest.raises(
        UserError, match=r"task\.states = 2, task\.actions = 2, task\.absorbing = one: of 4,096 machines"
    ):
        build(config)


def test_what_changes_no_shape_may_stand_in_one_stack():
    same = asked("model=lstm"), asked("model=lstm", "supervision=dense", "evaluation.rows=9", "evaluation.free_rows=9")
    assert signature(same[0]) == signature(same[1])
    for other in ("task.actions=4", "task.demo_length=9", "evaluation.query_lengths=[90]", "task.head=states"):
        assert signature(asked("model=lstm", other)) != signature(same[0])


def test_a_phase_of_smaller_machines_is_trained_with_the_same_head():
    """The curriculum: one 8-way head, of which a phase with fewer states uses fewer answers."""
    config = asked(
        "task.states=4",
        "task.actions=3",
        'training.phases=[{"steps":2,"study":{"task":{"states":3,"actions":2}}},{"steps":3}]',
        "training.steps=5",
        "model.width=8",
        "model.heads=2",
    )
    built = build(config)
    first, second = (task.interface for task in built.tasks)
    assert (first.outputs.among, second.outputs.among) == (3, 4) and first.length < second.length
