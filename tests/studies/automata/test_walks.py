"""Walks follow their machines by uniformly random actions among those that a state has."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inlearn.core import draws
from inlearn.studies.automata.walks import walk


def keys(*shape: int, number: int = 3) -> Tensor:
    count = torch.Size(shape).numel()
    return draws.each(torch.tensor(number), torch.arange(count)).view(shape)


def a_table(number: int, rows: int, states: int, actions: int, partial: bool) -> Tensor:
    """Where partial, any but one action of each state may be missing."""
    table = draws.integers(torch.tensor(number), rows, states, (states, actions))
    if partial:
        missing = draws.integers(torch.tensor(number + 1), rows, 2, (states, actions)) > 0
        missing[..., number % actions] = False
        table = torch.where(missing, -1, table)
    return table


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.booleans(), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_every_step_is_the_machines(states: int, actions: int, partial: bool, walks: int, length: int, number: int):
    table = a_table(number, 5, states, actions, partial)
    start = draws.integers(torch.tensor(number), 5, states, (walks,))
    passed, taken = walk(table, start, keys(5, walks), length, total=not partial)
    assert passed.shape == (5, walks, length + 1) and taken.shape == (5, walks, length)
    assert torch.equal(passed[..., 0], start)
    for row in range(5):
        for one in range(walks):
            for step in range(length):
                before, action = int(passed[row, one, step]), int(taken[row, one, step])
                assert int(passed[row, one, step + 1]) == int(table[row, before, action]) >= 0


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 99))
def test_a_total_machine_is_walked_the_same_either_way(states: int, actions: int, number: int):
    table = a_table(number, 4, states, actions, False)
    start = torch.zeros(4, 3, dtype=torch.int64)
    for one, other in zip(
        walk(table, start, keys(4, 3), 20, total=True), walk(table, start, keys(4, 3), 20, total=False), strict=True
    ):
        assert torch.equal(one, other)


def test_a_walk_depends_on_its_key_and_a_longer_one_begins_with_it():
    table = a_table(1, 6, 4, 3, True)
    start = draws.integers(torch.tensor(2), 6, 4, (2,))
    passed, taken = walk(table, start, keys(6, 2), 30, total=False)
    part = walk(table[2:5], start[2:5, :1], keys(6, 2)[2:5, :1], 12, total=False)
    assert torch.equal(part[0], passed[2:5, :1, :13]) and torch.equal(part[1], taken[2:5, :1, :12])
    led = walk(table.view(2, 3, 4, 3), start.view(2, 3, 2), keys(2, 3, 2), 30, total=False)
    assert torch.equal(led[0].flatten(0, 1), passed) and torch.equal(led[1].flatten(0, 1), taken)


def test_actions_are_uniform_among_those_of_the_state():
    """State 0 has actions 0, 2 and 3 of 4; state 1 has 1 and 2."""
    table = torch.tensor([[0, -1, 1, 0], [-1, 0, 1, -1]]).expand(400, 2, 4)
    passed, taken = walk(table, torch.zeros(400, 1, dtype=torch.int64), keys(400, 1), 200, total=False)
    for state, own in ((0, (0, 2, 3)), (1, (1, 2))):
        here = taken[passed[..., :-1] == state]
        share = torch.bincount(here, minlength=4) / len(here)
        even = 1 / len(own)
        assert share.nonzero().squeeze(-1).tolist() == list(own)
        assert all(abs(share[action].item() - even) < 5 * (even * (1 - even) / len(here)) ** 0.5 for action in own)
