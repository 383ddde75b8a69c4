"""Probe targets against what is read, symbol by symbol, off the rows themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inlearn.analysis.subject import Subject
from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.lab.config import Seeds
from inlearn.studies.automata.config import AutomataConfig
from inlearn.studies.automata.probing import probe_targets

EOS, QUERY = 18, 19
TASKS = [
    {"states": 3, "actions": 2, "demos": 2},
    {"states": 4, "actions": 3, "demos": 3, "relabel": True, "demo_length": 12, "query_length": 9},
    {"states": 4, "actions": 3, "demos": 3, "defined": 0.7, "demo_length": 12, "query_length": 9},
]


def sample(task: dict, rows: int = 40) -> Batch:
    study = AutomataConfig.model_validate({"task": {"kind": "machines", **task}}).build(Seeds().following(0))
    return study.tasks["test"].sample(Address(Seeds().following(0), "eval"), rows)


def steps_of(symbols: list[int]) -> list[tuple[int, int, int]]:
    """(state, action, next state) of a walk s0 a0 s1 a1 .. sL."""
    return [tuple(symbols[i : i + 3]) for i in range(0, len(symbols) - 2, 2)]


@pytest.mark.parametrize("task", TASKS, ids=["plain", "relabelled", "partial"])
def test_targets_are_what_the_rows_say(task):
    batch = sample(task)
    found = probe_targets(batch)
    assert all(values.dtype == torch.int64 and values.shape == batch.inputs.shape for values in found.values())
    for row in range(batch.rows):
        inputs = batch.inputs[row].tolist()[1:]  # what was shown, less its last symbol
        shown, query = inputs[: inputs.index(QUERY)], inputs[inputs.index(QUERY) + 1 :]
        demos, walk = [], []
        for symbol in shown:
            if symbol == EOS:
                demos += steps_of(walk)
                walk = []
            else:
                walk.append(symbol)
        asked = batch.weights[row].nonzero().flatten().tolist()
        pairs = {(s, a) for s, a, _ in demos}
        earlier = set()
        for k, place in enumerate(asked):
            state, action, after = query[2 * k], query[2 * k + 1], int(batch.targets[row, place])
            assert found["current_state"][row, place] == state and int(batch.inputs[row, place]) == action
            assert found["next_state"][row, place] == after
            assert found["previous_action"][row, place] == (query[2 * k - 1] - 8 if k else -1)
            seen = 2 if (state, action) in pairs else int((state, action) in earlier)
            assert found["pair_seen"][row, place] == seen
            earlier.add((state, action))
            for s, a, after in demos:
                assert found[f"entry[{s},{a - 8}]"][row, place] == after
        elsewhere = torch.ones(batch.inputs.shape[1], dtype=torch.bool)
        elsewhere[asked] = False
        assert all((values[row][elsewhere] == -1).all() for values in found.values())


def test_entries_are_those_of_the_machine_by_symbol():
    batch = sample(TASKS[1])
    found, episodes = probe_targets(batch), batch.latents
    for row in range(batch.rows):
        place = int(batch.weights[row].nonzero()[0])
        own = {name: int(values[row, place]) for name, values in found.items() if name.startswith("entry[")}
        known = {
            f"entry[{int(episodes.state_symbols[row, s])},{int(episodes.action_symbols[row, a]) - 8}]": int(
                episodes.state_symbols[row, episodes.table[row, s, a]]
            )
            for s in range(4)
            for a in range(3)
        }
        assert {name: value for name, value in own.items() if value >= 0} == known


def test_a_partial_machine_has_no_entry_where_it_has_no_transition():
    batch = sample(TASKS[2])
    found = probe_targets(batch)
    missing = batch.latents.table < 0
    assert missing.any()
    row, state, action = missing.nonzero()[0].tolist()
    assert (found[f"entry[{state},{action}]"][row] == -1).all()


def test_states_that_share_a_symbol_have_no_entries():
    found = probe_targets(sample({"states": 5, "actions": 3, "outputs": 2}))
    assert set(found) == {"next_state", "current_state", "previous_action", "pair_seen"}


def test_rows_of_another_task_offer_nothing_of_machines():
    batch = sample(TASKS[0])
    assert probe_targets(Batch(batch.inputs, batch.targets, batch.weights)) == {}


def test_rows_that_learners_answer_themselves_are_not_probed_and_finite_sets_say_how_long_they_are():
    tree = {
        "task": {"kind": "machines", **TASKS[0]},
        "data": {"kind": "cached", "train": 30, "validation": 7, "test": 9},
    }
    study = AutomataConfig.model_validate(tree).build(Seeds().following(0), 4)
    subject = Subject(study, nn.Identity(), nn.Identity, Seeds().following(0), torch.device("cpu"))
    assert subject.set_name(None) == "test"
    assert [subject.batch(name, 2000).rows for name in ("train", "validation", "test")] == [30, 7, 9]
    with pytest.raises(UserError, match="set = free: models read their own answers there"):
        subject.batch("free", 5)
