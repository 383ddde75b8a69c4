"""DFAs against a literal generator, minimal forms against a slow partition refinement, splits against enumeration."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.draws import Address, Addresses
from inlearn.core.errors import UserError
from inlearn.lab.config import Seeds
from inlearn.studies.automata.regbench_config import LETTERS, RegBenchConfig
from inlearn.studies.automata.regbench_machines import (
    BUCKETS,
    DEPTH,
    DFAs,
    Rows,
    belongs,
    draw_dfas,
    draw_of_split,
    identities,
    minimal,
    training_dfas,
)

SEEDS = Seeds().following(3)
HERE = Address(SEEDS, "eval")

Machine = list[dict[int, int]]
"""Of every node, where each letter leads."""


def drawn(law: RegBenchConfig, rows: int, step: int = 0) -> DFAs:
    return draw_dfas(Rows.following(Address(SEEDS, "eval", step), "train", rows).words, law)


def machines(dfas: DFAs) -> list[Machine]:
    found = []
    for nodes, letters, targets in zip(dfas.nodes.tolist(), dfas.letters.tolist(), dfas.targets.tolist(), strict=True):
        rows = [
            {letter: target for letter, target in zip(*edges, strict=True) if letter < LETTERS}
            for edges in zip(letters, targets, strict=True)
        ]
        found.append(rows[:nodes])
    return found


def tensors(found: list[Machine], nodes: int, edges: int) -> DFAs:
    letters = torch.full((len(found), nodes, edges), LETTERS)
    targets = torch.zeros_like(letters)
    for i, machine in enumerate(found):
        for node, rows in enumerate(machine):
            for e, (letter, target) in enumerate(rows.items()):
                letters[i, node, e], targets[i, node, e] = letter, target
    return DFAs(torch.tensor([len(machine) for machine in found]), letters, targets)


def language(machine: Machine, depth: int) -> frozenset[tuple[int, ...]]:
    """The words of at most `depth` letters that it accepts."""
    words, level = {()}, {((), 0)}
    for _ in range(depth):
        level = {((*word, letter), target) for word, node in level for letter, target in machine[node].items()}
        words |= {word for word, _ in level}
    return frozenset(words)


def literal(rng: random.Random, law: RegBenchConfig) -> Machine:
    """The benchmark's generator, as its authors describe it."""
    nodes = rng.randint(*law.nodes)
    alphabet = rng.sample(range(LETTERS), rng.randint(*law.letters))
    machine = []
    for node in range(nodes):
        count = rng.randint(*law.edges)
        targets = rng.sample([other for other in range(nodes) if other != node], count)
        machine.append(dict(zip(rng.sample(alphabet, count), targets, strict=True)))
    return machine


def slow_minimal(machine: Machine) -> Machine:
    """By refining a partition of the nodes that can be reached, then a breadth-first walk in the letters' order."""
    reached, todo = {0}, [0]
    while todo:
        for target in machine[todo.pop()].values():
            if target not in reached:
                reached.add(target)
                todo.append(target)
    block = dict.fromkeys(reached, 0)
    while True:
        signs = {
            node: (block[node], tuple(sorted((letter, block[t]) for letter, t in machine[node].items())))
            for node in reached
        }
        names = {sign: i for i, sign in enumerate(dict.fromkeys(signs.values()))}
        finer = {node: names[signs[node]] for node in reached}
        if len(set(finer.values())) == len(set(block.values())):
            break
        block = finer
    order = [block[0]]
    some = {block[node]: node for node in reached}
    for here in order:
        for _, target in sorted(machine[some[here]].items()):
            if block[target] not in order:
                order.append(block[target])
    return [
        {letter: order.index(block[target]) for letter, target in sorted(machine[some[here]].items())} for here in order
    ]


# ---------------------------------------------------------------- draws


@st.composite
def laws(draw: st.DrawFn) -> RegBenchConfig:
    edges = draw(st.integers(1, 4))
    low = {"edges": draw(st.integers(1, edges)), "letters": draw(st.integers(edges, LETTERS))}
    low["nodes"] = draw(st.integers(edges + 1, 8))
    high = {"edges": edges, "letters": draw(st.integers(low["letters"], LETTERS))}
    high["nodes"] = draw(st.integers(low["nodes"], 9))
    return RegBenchConfig(**{key: (low[key], high[key]) for key in low})


@settings(max_examples=40, deadline=None)
@given(laws(), st.integers(0, 1000))
def test_machines_are_as_asked(law: RegBenchConfig, step: int):
    dfas = drawn(law, 30, step)
    for machine, nodes in zip(machines(dfas), dfas.nodes.tolist(), strict=True):
        assert law.nodes[0] <= nodes == len(machine) <= law.nodes[1]
        assert len({letter for edges in machine for letter in edges}) <= law.letters[1]
        for node, edges in enumerate(machine):
            targets = list(edges.values())
            assert law.edges[0] <= len(edges) <= law.edges[1]
            assert len(set(targets)) == len(targets) and node not in targets
            assert all(0 <= target < nodes for target in targets)


def test_letters_and_targets_of_a_node_are_all_that_are_possible_equally_often():
    law = RegBenchConfig(nodes=(3, 3), letters=(2, 2), edges=(2, 2))
    dfas = drawn(law, 80_000)
    orders = Counter(map(tuple, dfas.targets[:, 1].tolist()))
    assert set(orders) == {(0, 2), (2, 0)} and abs(orders[0, 2] - 40_000) < 5 * 20_000**0.5
    pairs = Counter(map(tuple, dfas.letters[:, 0].tolist()))
    expected = 80_000 / (18 * 17)
    assert set(pairs) == set(itertools.permutations(range(18), 2))
    assert all(abs(count - expected) < 5.5 * expected**0.5 for count in pairs.values())
    for machine in machines(dfas[:20]):
        assert len({frozenset(edges) for edges in machine}) == 1  # one alphabet of two letters


def summary(machine: Machine) -> tuple[int, ...]:
    least = slow_minimal(machine)
    alphabet = len({letter for edges in machine for letter in edges})
    return len(machine), len(least), alphabet, sum(map(len, machine)), len(language(machine, 3))


def test_the_published_law_is_the_literal_generators():
    """In the shares of every number of nodes, and in means of what the generator does not set by itself."""
    law, count = RegBenchConfig(), 4000
    rng = random.Random(5)
    ours = torch.tensor([summary(machine) for machine in machines(drawn(law, count))]).double()
    theirs = torch.tensor([summary(literal(rng, law)) for _ in range(count)]).double()
    error = ((ours.var(0) + theirs.var(0)) / count) ** 0.5
    assert ((ours.mean(0) - theirs.mean(0)).abs() < 4.5 * error).all(), (ours.mean(0), theirs.mean(0))
    for column in (0, 1):
        shares = [torch.bincount(each[:, column].long(), minlength=13) / count for each in (ours, theirs)]
        assert (shares[0] - shares[1]).abs().max() < 5 * (2 * 0.14 * 0.86 / count) ** 0.5
    assert ours[:, 0].min() == 4 and ours[:, 0].max() == 12


# ---------------------------------------------------------------- minimal forms


@settings(max_examples=60, deadline=None)
@given(laws(), st.integers(0, 1000))
def test_minimal_forms_are_those_of_partition_refinement(law: RegBenchConfig, step: int):
    dfas = drawn(law, 20, step)
    form = minimal(dfas)
    assert machines(form) == [slow_minimal(machine) for machine in machines(dfas)]
    for few, many in zip(machines(form), machines(dfas), strict=True):
        assert language(few, 4) == language(many, 4)
    again = minimal(form)
    assert all(torch.equal(getattr(again, name), getattr(form, name)) for name in ("nodes", "letters", "targets"))


def test_nodes_that_accept_the_same_words_become_one():
    # 1 and 2 both go on with b to 0; 3 cannot be reached; the chain 4 of two letters differs from 5 only at its end.
    machine = [{0: 1, 2: 2}, {1: 0}, {1: 0}, {0: 0}]
    assert machines(minimal(tensors([machine], 6, 3))) == [[{0: 1, 2: 1}, {1: 0}]]
    far = [{0: 1, 1: 4}, {0: 2}, {0: 3}, {0: 0}, {0: 5}, {0: 6}, {1: 0}]  # told apart by the third letter
    assert len(machines(minimal(tensors([far], 7, 2)))[0]) == 7
    ring = [{5: (node + 1) % 8} for node in range(8)]
    assert machines(minimal(tensors([ring], 8, 2))) == [[{5: 0}]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_equal_languages_have_one_identity_whatever_the_nodes_are_called(seed: int):
    rng = random.Random(seed)
    law = RegBenchConfig(nodes=(3, 6), letters=(2, 3), edges=(1, 2))
    machine = literal(rng, law)
    order = [0, *rng.sample(range(1, len(machine)), len(machine) - 1)]
    renamed: Machine = [{} for _ in machine]
    for node, edges in enumerate(machine):
        letters = rng.sample(list(edges), len(edges))
        renamed[order[node]] = {letter: order[edges[letter]] for letter in letters}
    other = literal(rng, law)
    names = identities(tensors([machine, renamed, other], 6, 2))
    assert names[0] == names[1]
    assert (names[0] == names[2]) == (language(machine, 12) == language(other, 12))


# ---------------------------------------------------------------- splits and sets


def test_every_machine_is_of_one_split_which_its_first_letters_decide():
    law = RegBenchConfig(nodes=(2, 4), letters=(1, 2), edges=(1, 1))
    dfas = drawn(law, 3000)
    members = torch.stack([belongs(dfas, split) for split in BUCKETS])
    assert (members.sum(0) == 1).all()
    splits: dict[frozenset, set[int]] = {}
    for machine, split in zip(machines(dfas), members.int().argmax(0).tolist(), strict=True):
        splits.setdefault(language(machine, DEPTH), set()).add(split)
    assert len(splits) > 300 and all(len(found) == 1 for found in splits.values())


def test_of_ten_machines_eight_are_for_training():
    dfas = drawn(RegBenchConfig(), 20_000)
    for split, buckets in BUCKETS.items():
        share = len(buckets) / 10
        assert abs(belongs(dfas, split).double().mean().item() - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_a_small_laws_languages_are_all_dealt_out():
    """Enumerated: two nodes that lead to each other by one letter each have 18 + 18 * 17 languages."""
    law = RegBenchConfig(nodes=(2, 2), letters=(2, 2), edges=(1, 1))
    dfas = drawn(law, 30_000)
    names = identities(dfas)
    assert len(set(names)) == 18 * 18
    owners = {
        split: {name for name, own in zip(names, belongs(dfas, split).tolist(), strict=True) if own}
        for split in BUCKETS
    }
    assert sum(map(len, owners.values())) == 18 * 18
    for split, own in owners.items():
        rows, found = draw_of_split(Rows.following(HERE, split, 4000), law)
        assert found.all() and set(identities(rows)) == own


def test_training_machines_are_different_and_fewer_are_the_beginning_of_more():
    law = RegBenchConfig(nodes=(2, 3), letters=(1, 2), edges=(1, 1))
    dfas = training_dfas(Address(SEEDS, "data"), 1000, law)
    assert len(set(identities(dfas))) == 1000 and belongs(dfas, "train").all()
    few = training_dfas(Address(SEEDS, "data"), 400, law)
    assert all(torch.equal(getattr(few, n), getattr(dfas, n)[:400]) for n in ("nodes", "letters", "targets"))
    other = training_dfas(Address(Seeds().following(4), "data"), 400, law)
    assert set(identities(other)) != set(identities(few))


def test_a_law_of_too_few_machines_is_refused():
    law = RegBenchConfig(nodes=(2, 2), letters=(2, 2), edges=(1, 1))
    with pytest.raises(UserError, match=r"data.train = 300, but task.nodes = \[2, 2\].* gave 2\d\d different"):
        training_dfas(Address(SEEDS, "data"), 300, law)
    splits = [split for split in BUCKETS if belongs(drawn(single := RegBenchConfig(
        nodes=(2, 2), letters=(1, 1), edges=(1, 1)), 4000), split).any()]  # fmt: skip
    for split in set(BUCKETS) - set(splits):
        with pytest.raises(UserError, match=f"none is of split {split}"):
            draw_of_split(Rows.following(HERE, split, 2), single)


def test_a_machine_depends_on_its_row_alone():
    law = RegBenchConfig()
    whole, _ = draw_of_split(Rows.following(HERE, "test", 40), law)
    part, found = draw_of_split(Rows.following(HERE, "test", 7, 20), law)
    assert found.all()
    assert all(torch.equal(getattr(part, n), getattr(whole, n)[20:27]) for n in ("nodes", "letters", "targets"))
    seeds = (SEEDS, Seeds().following(9))
    steps = torch.tensor([4, 7])
    both, found = draw_of_split(Rows.following(Addresses(seeds, "data", steps), "train", 50), law)
    assert found.all()
    for e in range(2):
        alone, _ = draw_of_split(Rows.following(Address(seeds[e], "data", int(steps[e])), "train", 50), law)
        assert torch.equal(both.letters[e], alone.letters) and torch.equal(both.targets[e], alone.targets)
