"""Machines have the distribution that they are said to have, by enumeration; what is demanded of them holds."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inlearn.core import draws
from inlearn.core.errors import UserError
from inlearn.studies.automata.config import MachinesConfig
from inlearn.studies.automata.machines import (
    SPLITS,
    Law,
    absorbing,
    admitted,
    bucket,
    candidates,
    machines,
    odds,
    reached,
    structure,
)

Table = tuple[int, ...]


def keys(count: int, number: int = 7) -> Tensor:
    return draws.each(torch.tensor(number), torch.arange(count))


def ways(table: list[list[int]], start: int) -> set[int]:
    """The states reached from one, found by walking."""
    found, left = {start}, [start]
    while left:
        for there in table[left.pop()]:
            if there >= 0 and there not in found:
                found.add(there)
                left.append(there)
    return found


# ---------------------------------------------------------------- the law, by enumeration


def trees(states: int, actions: int) -> dict[Table, Fraction]:
    """The probability of every tree: each attachment takes a uniform state, source with a free action, and action."""
    found: dict[Table, Fraction] = defaultdict(Fraction)

    def grow(table: Table, attached: tuple[int, ...], share: Fraction) -> None:
        if len(attached) == states:
            found[table] += share
            return
        free = {s: [a for a in range(actions) if table[s * actions + a] < 0] for s in attached}
        sources = [s for s in attached if free[s]]
        rest = [s for s in range(states) if s not in attached]
        for source, new in itertools.product(sources, rest):
            for action in free[source]:
                place = source * actions + action
                grown = (*table[:place], new, *table[place + 1 :])
                grow(grown, (*attached, new), share / len(sources) / len(rest) / len(free[source]))

    grow((-1,) * states * actions, (0,), Fraction(1))
    return found


def law_by_hand(states: int, actions: int) -> dict[Table, Fraction]:
    """The probability of every machine of the published law: a tree, and any next state elsewhere."""
    found: dict[Table, Fraction] = defaultdict(Fraction)
    for tree, share in trees(states, actions).items():
        options = [[there] if there >= 0 else range(states) for there in tree]
        each = share / states ** sum(there < 0 for there in tree)
        for table in itertools.product(*options):
            found[table] += each
    return found


def assert_shares(found: Counter, shares: dict[Table, Fraction], draws: int) -> None:
    """Every outcome within five standard errors of its share, and no other outcome."""
    assert set(found) <= set(shares)
    for outcome, share in shares.items():
        p = float(share)
        assert abs(found[outcome] - draws * p) < 5 * (draws * p * (1 - p)) ** 0.5 + 1e-9, outcome


def counted(table: Tensor) -> Counter:
    return Counter(map(tuple, table.flatten(1).tolist()))


@pytest.mark.parametrize("states, actions", [(2, 1), (2, 2), (3, 1), (3, 2), (2, 3)])
def test_machines_are_drawn_by_the_published_law(states: int, actions: int):
    """Where actions are few (A < S - 1) too, which the published generator could not do."""
    rows = 60_000
    assert_shares(counted(candidates(keys(rows), Law(states, actions))), law_by_hand(states, actions), rows)


def test_where_actions_are_fewer_than_states_the_tree_takes_free_ones():
    table = candidates(keys(30_000), Law(4, 1))
    shares = defaultdict(Fraction)
    for machine, share in law_by_hand(4, 1).items():
        shares[machine] += share
    assert_shares(counted(table), shares, 30_000)
    for machine in table[:500].tolist():
        assert ways(machine, 0) == {0, 1, 2, 3}


def conditioned(shares: dict[Table, Fraction], holds) -> dict[Table, Fraction]:
    kept = {table: share for table, share in shares.items() if holds(table)}
    total = sum(kept.values())
    return {table: share / total for table, share in kept.items()}


def is_absorbing(table: Table, state: int, actions: int) -> bool:
    return all(there in (state, -1) for there in table[state * actions : (state + 1) * actions])


def test_a_split_takes_its_part_of_the_law_and_no_more():
    shares, rows = law_by_hand(3, 2), 40_000
    for split, (low, high) in SPLITS.items():
        mine = {t for t in shares if low <= int(bucket(torch.tensor(t).view(3, 2))) < high}
        drawn = machines(keys(rows), Law(3, 2), split)
        assert_shares(counted(drawn), conditioned(shares, mine.__contains__), rows)


def test_without_absorbing_states_and_connected_are_the_law_under_that_condition():
    shares, rows = law_by_hand(3, 2), 40_000
    none = conditioned(shares, lambda t: not any(is_absorbing(t, s, 2) for s in range(3)))
    assert_shares(counted(machines(keys(rows), Law(3, 2, absorbing="none"), None)), none, rows)

    def connected(table: Table) -> bool:
        rows_ = [list(table[2 * s : 2 * s + 2]) for s in range(3)]
        return all(ways(rows_, s) == {0, 1, 2} for s in range(3))

    law = Law(3, 2, connected=True)
    assert_shares(counted(machines(keys(rows), law, None)), conditioned(shares, connected), rows)


def test_one_absorbing_state_is_the_published_overwrite_where_all_states_stay_reachable():
    shares: dict[Table, Fraction] = defaultdict(Fraction)
    for table, share in law_by_hand(3, 2).items():
        for state in range(3):
            over = (*table[: 2 * state], state, state, *table[2 * state + 2 :])
            shares[over] += share / 3

    def good(table: Table) -> bool:
        rows = [list(table[2 * s : 2 * s + 2]) for s in range(3)]
        return ways(rows, 0) == {0, 1, 2} and sum(is_absorbing(table, s, 2) for s in range(3)) == 1

    drawn = machines(keys(40_000), Law(3, 2, absorbing="one"), None)
    assert_shares(counted(drawn), conditioned(shares, good), 40_000)


# ---------------------------------------------------------------- what always holds


@st.composite
def laws(draw: st.DrawFn) -> Law:
    states, actions = draw(st.integers(3, 8)), draw(st.integers(2, 10))
    least = -(-100 * (2 * states - 2) // (states * actions)) / 100
    defined = draw(st.sampled_from([1.0, 1.0, min(1.0, least + 0.1), min(1.0, least + 0.3)]))
    kind = draw(st.sampled_from(["any", "none", "one", "connected"]))
    if kind == "connected":
        return Law(states, actions, "any", True, defined)
    return Law(states, actions, kind, False, defined)


@settings(max_examples=25, deadline=None)
@given(laws(), st.sampled_from(["train", "validation", "test"]), st.integers(0, 1000))
def test_every_machine_keeps_its_law(law: Law, split: str, number: int):
    try:
        odds(law)
    except UserError as refusal:
        assert "expected" in str(refusal)
        return
    table = machines(keys(8, number), law, split)
    for machine in table.tolist():
        entries = [there for row in machine for there in row]
        assert all(-1 <= there < law.states for there in entries)
        assert ways(machine, 0) == set(range(law.states))
        assert all(max(row) >= 0 for row in machine)
        assert sum(there >= 0 for there in entries) == law.pairs
        stuck = sum(all(there in (s, -1) for there in row) for s, row in enumerate(machine))
        if law.absorbing != "any":
            assert stuck == (law.absorbing == "one")
        if law.connected:
            assert all(ways(machine, s) == set(range(law.states)) for s in range(law.states))
    low, high = SPLITS[split]
    assert all(low <= place < high for place in bucket(table).tolist())


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 10_000), st.booleans())
def test_reached_and_absorbing_agree_with_walking(states: int, actions: int, number: int, partial: bool):
    table = draws.integers(torch.tensor(number), 6, states + partial, (states, actions)) - int(partial)
    for machine, there, stuck in zip(table.tolist(), reached(table).tolist(), absorbing(table).tolist(), strict=True):
        for state in range(states):
            assert {s for s in range(states) if there[state][s]} == ways(machine, state)
            assert stuck[state] == (ways(machine, state) == {state})


def test_partial_machines_leave_out_pairs_beyond_the_tree_evenly():
    """Of 2 states and 3 actions with 4 of 6 pairs: one of state 0 leads to state 1, the other kept ones are alike."""
    table = candidates(keys(60_000), Law(2, 3, defined=0.67))
    kept = (table >= 0).long()
    assert kept.flatten(1).sum(1).unique().tolist() == [4]
    assert (table[:, 0] == 1).any(1).all() and kept.any(2).all()
    per_state = kept.sum(2).double().mean(0)
    # State 0 has its tree edge, state 1 one pair; 2 of the other 4 pairs are kept, 2 of them of each state.
    assert (per_state - torch.tensor([2.0, 2.0])).abs().max() < 0.02
    assert (kept.double().mean(0) - 2 / 3).abs().max() < 0.02


# ---------------------------------------------------------------- keys, splits and devices


def test_a_machine_depends_on_its_key_alone():
    law, many = Law(5, 3, absorbing="none"), keys(300)
    whole = machines(many, law, "test")
    assert torch.equal(machines(many[120:150], law, "test"), whole[120:150])
    assert torch.equal(machines(many.view(3, 100), law, "test").flatten(0, 1), whole)


@pytest.mark.parametrize(
    "law", [Law(3, 3), Law(5, 5, absorbing="one"), Law(4, 2, connected=True), Law(5, 4, defined=0.7)]
)
def test_where_nobody_looks_the_machines_are_the_same(law: Law):
    assert torch.equal(machines(keys(500), law, "train", look=False), machines(keys(500), law, "train"))


def test_what_takes_too_many_candidates_where_nobody_looks_is_refused():
    with pytest.raises(UserError, match=r"candidates a row .* expected at most 64"):
        machines(keys(3), Law(3, 3), "test", look=False)


def renamed(table: Tensor, number: int = 3) -> Tensor:
    """The same machines under other names of states and actions, each its own."""
    states, actions = table.shape[1:]
    new = draws.bits(keys(len(table), number), 1, states).squeeze(1).argsort(-1)
    order = draws.bits(keys(len(table), number + 1), 1, actions).squeeze(1).argsort(-1)
    there = torch.where(table < 0, -1, new.gather(1, table.clamp(min=0).flatten(1)).view_as(table))
    there = there.gather(1, new.argsort(-1)[..., None].expand_as(there))
    return there.gather(2, order[:, None].expand_as(there))


@pytest.mark.parametrize("law", [Law(3, 3), Law(5, 4, defined=0.7), Law(8, 8), Law(4, 3, "one")])
def test_machines_that_differ_in_names_alone_have_one_structure(law: Law):
    table = machines(keys(2000), law, None)
    other = renamed(table)
    assert (other != table).flatten(1).any(1).double().mean() > 0.9
    assert torch.equal(structure(other), structure(table))


def test_structures_tell_other_machines_apart():
    """All machines of 3 states and 2 actions, up to names, counted by trying every name."""
    every = torch.tensor(list(itertools.product(range(3), repeat=6))).view(-1, 3, 2)
    least: dict[Table, int] = {}
    for table, found in zip(every.tolist(), structure(every).tolist(), strict=True):
        names = [
            tuple(new[table[old.index(s)][a]] for s in range(3) for a in order)
            for new in itertools.permutations(range(3))
            for old in [list(new)]
            for order in ((0, 1), (1, 0))
        ]
        assert least.setdefault(min(names), found) == found
    assert len(least) == 74 and len(set(least.values())) > 50


@pytest.mark.parametrize("config", [{"relabel": True}, {"outputs": 2}])
def test_where_rows_show_no_names_splits_share_no_machine_under_another(config: dict):
    law = Law.of(MachinesConfig(states=3, actions=3, **config))
    found = [set(structure(machines(keys(4000, number), law, split)).tolist()) for number, split in enumerate(SPLITS)]
    assert all(found) and not (found[0] & found[1] | found[0] & found[2] | found[1] & found[2])


def test_splits_share_no_machine():
    law = Law(3, 3)
    found = [set(counted(machines(keys(20_000, number), law, split))) for number, split in enumerate(SPLITS)]
    assert all(not one & other for one, other in itertools.combinations(found, 2))
    assert all(bool(admitted(torch.tensor(t).view(3, 3), law, "validation")) for t in found[1])


@pytest.mark.parametrize(
    "law, reason",
    [
        (
            Law(2, 1),
            r"task\.states = 2, task\.actions = 1: .* 0 are such and in split .* expected more states or actions$",
        ),
        (Law(2, 3, absorbing="one"), r"task\.absorbing = one: .* more states or actions or not task\.absorbing = one$"),
        (Law(3, 1, connected=True), r"task\.connected = true: .* or task\.connected = false$"),
    ],
)
def test_a_law_with_too_few_machines_is_refused_and_says_why(law: Law, reason: str):
    with pytest.raises(UserError, match=reason):
        odds(law)


# ---------------------------------------------------------------- published statistics


@pytest.mark.parametrize(
    "states, actions, connected, loops",
    [(3, 3, 0.856, 0.77), (5, 5, 0.975, 0.84), (5, 8, 0.9985, 1.44), (8, 8, 0.9995, 0.89)],
)
def test_statistics_of_the_published_generator(states: int, actions: int, connected: float, loops: float):
    """From 4,000 draws each; ours of 10,000, so within four standard errors of both and the last digit."""
    table = candidates(keys(10_000), Law(states, actions))
    found = reached(table).flatten(1).all(1).double().mean().item()
    error = (connected * (1 - connected) * (1 / 4000 + 1 / 10_000)) ** 0.5
    assert abs(found - connected) < 4 * error + 5e-4
    own = (table == torch.arange(states)[:, None]).double().sum((1, 2)) / states
    assert abs(own.mean().item() - loops) < 4 * own.std().item() * (1 / 4000 + 1 / 10_000) ** 0.5 + 5e-3
    if (states, actions) == (3, 3):
        stuck = absorbing(table).any(1).double().mean().item()
        assert abs(stuck - 0.052) < 4 * (0.052 * 0.948 * (1 / 4000 + 1 / 10_000)) ** 0.5 + 5e-4
