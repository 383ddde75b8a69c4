"""Rows read as they should: parsed by symbols alone, as a reader would, and counted by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.lab.config import Seeds
from inlearn.studies.automata.config import EOS, PAD, QUERY, MachinesConfig
from inlearn.studies.automata.encoding import encode, repeats
from inlearn.studies.automata.episodes import Episodes
from inlearn.studies.automata.study import interface_of
from inlearn.studies.automata.tasks import Machines

HERE = Address(Seeds().following(4), "eval", 3)


@st.composite
def problems(draw: st.DrawFn) -> MachinesConfig:
    states = draw(st.integers(3, 8))
    actions = draw(st.integers(2, 10))
    length = st.one_of(st.none(), st.integers(1, 12))
    fields = {
        "states": states,
        "actions": actions,
        "demos": draw(st.integers(1, min(3, states))),
        "demo_length": draw(length),
        "query_length": draw(length),
        "jitter": draw(st.sampled_from([0.0, 0.2, 0.9])),
        "absorbing": draw(st.sampled_from(["any", "none", "one"])),
        "relabel": draw(st.booleans()),
        "outputs": draw(st.one_of(st.none(), st.integers(2, states))),
        "defined": draw(st.sampled_from([1.0, 1.0, 0.8])),
    }
    if fields["defined"] < 1 and round(0.8 * states * actions) < 2 * states - 2:
        fields["defined"] = 1.0
    return MachinesConfig.model_validate(fields)


def task_of(config: MachinesConfig, **more: object) -> Machines:
    return Machines(interface_of(config, config.length), config, "train", **more)


def walks_of(symbols: list[int]) -> tuple[list[list[int]], list[int], int]:
    """A row's demonstrations, its query, and where the query begins."""
    demos, own, at = [], [], 0
    while symbols[at] != QUERY:
        if symbols[at] == EOS:
            demos.append(own)
            own = []
        else:
            own.append(symbols[at])
        at += 1
    assert own == []
    begin = at + 1
    end = symbols.index(EOS, begin)
    assert set(symbols[end + 1 :]) <= {PAD}
    return demos, symbols[begin:end], begin


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(1, 6), st.integers(0, 5), st.booleans())
def test_rows_read_as_they_should(config: MachinesConfig, rows: int, first: int, dense: bool):
    batch = task_of(config, dense=dense).sample(HERE, rows, first)
    batch.check(task_of(config).interface)
    assert batch.inputs.shape == (rows, config.length)
    for row in range(rows):
        read_row(batch, row, config, dense)


def read_row(batch: Batch, row: int, config: MachinesConfig, dense: bool) -> None:
    inputs, e = batch.inputs[row].tolist(), batch.latents
    assert inputs[0] == inputs[1]
    symbols = [*inputs[1:], PAD]
    if EOS not in symbols[symbols.index(QUERY) :]:  # a full row's last symbol is never an input
        symbols[-1] = EOS
    demos, query, begin = walks_of(symbols)
    shown, taken = e.state_symbols[row].tolist(), e.action_symbols[row].tolist()
    table = e.table[row].tolist()
    assert len(demos) == config.demos
    assert len({int(states[0]) for states in e.demo_states[row]}) == config.demos
    if config.outputs is None:
        assert len(set(shown)) == config.states
    elif not config.relabel:
        assert set(shown) == set(range(config.outputs))
    else:
        assert len(set(shown)) == config.outputs
    assert len(set(taken)) == config.actions and all(8 <= action < 18 for action in taken)
    counts: dict[tuple[int, int], int] = {}
    known = []
    places, place = [], 0
    for number, demo in enumerate(demos):
        states, actions = e.demo_states[row, number].tolist(), e.demo_actions[row, number].tolist()
        length = int(e.demo_lengths[row, number])
        known.append((demo, states, actions, length, config.walk(config.demo_length)))
        places += [place + 2 * step for step in range(1, length + 1)]
        place += 2 * length + 2
        for step in range(length):
            pair = states[step], actions[step]
            counts[pair] = counts.get(pair, 0) + 1
    length = int(e.query_lengths[row])
    states, actions = e.query_states[row].tolist(), e.query_actions[row].tolist()
    known.append((query, states, actions, length, config.walk(config.query_length)))
    for symbols_, states_, actions_, length_, wanted in known:
        assert symbols_[::2] == [shown[state] for state in states_[: length_ + 1]]
        assert symbols_[1::2] == [taken[action] for action in actions_[:length_]]
        assert all(table[states_[i]][actions_[i]] == states_[i + 1] >= 0 for i in range(length_))
        assert max(1, math.floor(wanted * (1 - config.jitter))) <= length_ <= math.floor(wanted * (1 + config.jitter))
    # questions: the position after an action, answered by the state that it leads to
    asked = [begin + 2 * step for step in range(1, length + 1)]
    assert int(e.query_at[row]) == asked[0]
    assert batch.weights[row].nonzero().squeeze(-1).tolist() == ([*places, *asked] if dense else asked)
    targets, marks = batch.targets[row].tolist(), {name: mark[row].tolist() for name, mark in batch.marks.items()}
    demonstrated = dict(counts)
    for step, at in enumerate(asked):
        pair = states[step], actions[step]
        assert inputs[at] == taken[actions[step]] and targets[at] == shown[states[step + 1]]
        before = counts.get(pair, 0)
        assert marks["position"][at] == step + 1
        assert marks["seen"][at] == (2 if demonstrated.get(pair) else int(before > 0))
        assert marks["occurrences"][at] == (2 ** int(math.log2(before)) if before else 0)
        assert marks["absorbed"][at] == all(there in (states[step], -1) for there in table[states[step]])
        counts[pair] = before + 1
    for at in set(range(config.length)) - set(asked):
        assert all(mark[at] == 0 for mark in marks.values())
    assert targets == [symbol if symbol < 8 else 0 for symbol in symbols]


def test_a_row_written_by_hand():
    """Two states, two actions; 0 -0-> 1, 0 -1-> 0, 1 leads to itself."""
    episodes = Episodes(
        table=torch.tensor([[[1, 0], [1, 1]]]),
        demo_states=torch.tensor([[[0, 0, 1]]]),
        demo_actions=torch.tensor([[[1, 0]]]),
        demo_lengths=torch.tensor([[2]]),
        query_states=torch.tensor([[0, 1, 1, 1]]),
        query_actions=torch.tensor([[0, 1, 1]]),
        query_lengths=torch.tensor([3]),
        query_at=torch.tensor([9]),
        state_symbols=torch.tensor([[5, 2]]),
        action_symbols=torch.tensor([[8, 11]]),
    )
    batch = encode(episodes, 16, dense=True, free=True)
    #           s0 a  s0 a  s1 EOS Q  q0 b  q1 b  q2 b  q3 EOS PAD
    sequence = [5, 11, 5, 8, 2, 18, 19, 5, 8, 2, 11, 2, 11, 2, 18, 20]
    assert batch.inputs.tolist() == [[5, *sequence[:-1]]]
    assert batch.targets.tolist() == [[5, 0, 5, 0, 2, 0, 0, 5, 0, 2, 0, 2, 0, 2, 0, 0]]
    assert batch.weights.nonzero()[:, 1].tolist() == [2, 4, 9, 11, 13]
    assert batch.feedback.nonzero()[:, 1].tolist() == [10, 12, 14]
    assert [batch.inputs[0, at].item() for at in (10, 12, 14)] == [2, 2, 2]
    at = [9, 11, 13]
    assert batch.marks["position"][0, at].tolist() == [1, 2, 3]
    assert batch.marks["seen"][0, at].tolist() == [2, 0, 1]
    assert batch.marks["occurrences"][0, at].tolist() == [1, 0, 1]
    assert batch.marks["absorbed"][0, at].tolist() == [0, 1, 1]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 4), min_size=9, max_size=9), min_size=1, max_size=5))
def test_repeats_are_counted_as_by_hand(rows: list[list[int]]):
    assert repeats(torch.tensor(rows)).tolist() == [[row[:i].count(row[i]) for i in range(len(row))] for row in rows]


@pytest.mark.parametrize(
    "fields, bound, mean",
    [
        ({"states": 3, "actions": 3}, 185, 157),
        ({"states": 3, "actions": 3, "demo_length": 30, "query_length": 30}, 297, None),
        ({"states": 5, "actions": 5}, 777, 645),
        ({"states": 5, "actions": 5, "demo_length": 90, "query_length": 100}, 897, None),
        ({"states": 5, "actions": 8, "demo_length": 70, "query_length": 147}, 865, 721),
        ({"states": 5, "actions": 8}, 1417, 1181),
        ({"states": 8, "actions": 8, "demo_length": 80, "query_length": 266}, 1223, 1013),
        ({"states": 8, "actions": 8}, 2561, None),
        ({"states": 5, "actions": 5, "demo_length": 60, "query_length": 80, "absorbing": "one"}, 633, 525),
    ],
)
def test_lengths_are_the_published_ones(fields: dict, bound: int, mean: int | None):
    """Means of 2,000 rows within four standard errors and what the last published digit leaves open."""
    config = MachinesConfig.model_validate(fields)
    assert config.length == bound
    if mean is not None:
        batch = task_of(config).sample(Address(Seeds().following(0), "eval"), 2000)
        lengths = (batch.inputs != PAD).double().sum(1)
        assert abs(lengths.mean().item() - mean) < 4 * lengths.std().item() * (1 / 2000 + 1 / 4000) ** 0.5 + 1
