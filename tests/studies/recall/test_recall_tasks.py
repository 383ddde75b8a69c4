"""Rows are what the literal recipe makes of their pairs; draws have the distributions that they are said to have."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses
from inlearn.lab.config import Seeds
from inlearn.studies.recall.config import RecallConfig
from inlearn.studies.recall.tasks import Recall, distinct, places_by_power
from inlearn.training.feeds import why_not_on_device

SEEDS = Seeds().following(4)
HERE = Address(SEEDS, "data", 3)


def recall(name: str = "train", evaluated: tuple[int, ...] | None = None, **task: object) -> Recall:
    return RecallConfig.model_validate({"task": task, "evaluation": {"pairs": evaluated}}).build(SEEDS).tasks[name]


@st.composite
def problems(draw: st.DrawFn) -> dict:
    """Fields of a task that fit together, full rows among them."""
    passes, most = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    pairs = [*draw(st.lists(st.integers(1, most), max_size=3)), most]
    spare = draw(st.integers(0, 5))
    return {
        "vocabulary": 2 * (most + 1 + draw(st.integers(0, 4))),
        "length": max(4, most * (2 * passes + 2) + 2 * spare),
        "pairs": pairs if len(pairs) > 1 else most,
        "power": draw(st.sampled_from([0.01, 0.5, 1.0, 3.0])),
        "passes": passes,
        "filler": draw(st.sampled_from(["random", "zero"])),
    }


def same(batch: Batch, other: Batch, first: int, rows: int) -> bool:
    """Whether `batch` is rows first..first+rows-1 of `other`."""
    cut = slice(first, first + rows)
    tensors = [(getattr(batch, name), getattr(other, name)) for name in ("inputs", "targets", "weights")]
    tensors += [(batch.marks[name], other.marks[name]) for name in other.marks]
    tensors += [(getattr(batch.latents, n), getattr(other.latents, n)) for n in ("counts", "keys", "values", "places")]
    return all(torch.equal(part, whole[cut]) for part, whole in tensors)


# ---------------------------------------------------------------- rows


@settings(max_examples=60, deadline=None)
@given(problems(), st.sampled_from(["train", "pairs"]), st.integers(1, 7), st.integers(0, 5))
def test_rows_read_as_they_should(fields: dict, name: str, rows: int, first: int):
    """By parsing symbols alone, as a reader would."""
    evaluated = tuple(dict.fromkeys(fields["pairs"])) if isinstance(fields["pairs"], list) else None
    task = recall(name, evaluated, **fields)
    batch = task.sample(HERE, rows, first)
    batch.check(task.interface)
    half, passes = fields["vocabulary"] // 2, fields["passes"]
    for row in range(rows):
        symbols, count = batch.inputs[row].tolist(), int(batch.marks["pairs"][row])
        assert count in task.counts
        if name == "pairs":
            assert count == task.counts[(first + row) % len(task.counts)]
        context = symbols[: 2 * count * passes]
        keys, values = context[: 2 * count : 2], context[1 : 2 * count : 2]
        assert context == passes * [symbol for pair in zip(keys, values, strict=True) for symbol in pair]
        assert len(set(keys)) == count and all(1 <= key < half for key in keys)
        assert len(set(values)) == count and all(half <= value < 2 * half for value in values)
        asked = batch.weights[row].nonzero().squeeze(-1).tolist()
        assert batch.weights[row].sum() == count == len(asked)
        assert all(place % 2 == 0 and place >= len(context) for place in asked)
        assert sorted(symbols[place] for place in asked) == sorted(keys)
        table = dict(zip(keys, values, strict=True))
        for place in range(len(symbols)):
            if place not in asked:
                assert batch.targets[row, place] == batch.marks["gap"][row, place] == 0
                continue
            assert batch.targets[row, place] == table[symbols[place]]
            shown = max(i for i in range(0, len(context), 2) if context[i] == symbols[place])
            assert batch.marks["gap"][row, place] == 2 ** math.floor(math.log2(place - shown) + 1e-9)
        rest = [symbols[place] for place in range(len(context), len(symbols)) if place not in asked]
        assert set(rest) <= ({0} if fields["filler"] == "zero" else set(range(2 * half)))


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(0, 20), st.integers(1, 12))
def test_a_row_depends_on_its_address_and_number_alone(fields: dict, first: int, rows: int):
    for task in (recall(**fields), recall("pairs", **fields)):
        assert same(task.sample(HERE, rows, first), task.sample(HERE, 40), first, rows)


def written_by_hand(batch: Batch, task: Recall) -> tuple[list[list[int]], list[list[int]]]:
    """Symbols and targets of every row, slot by slot from what generated it; 0 elsewhere."""
    inputs, targets = [], []
    for row, count in enumerate(batch.latents.counts.tolist()):
        keys, values, places = (
            getattr(batch.latents, name)[row, :count].tolist() for name in ("keys", "values", "places")
        )
        symbols, answers = [0] * task.interface.length, [0] * task.interface.length
        for turn in range(task.passes):
            for i in range(count):
                symbols[2 * (turn * count + i)] = keys[i]
                symbols[2 * (turn * count + i) + 1] = values[i]
        for i in range(count):
            symbols[places[i]], answers[places[i]] = keys[i], values[i]
        inputs.append(symbols)
        targets.append(answers)
    return inputs, targets


@settings(max_examples=30, deadline=None)
@given(problems(), st.integers(1, 9))
def test_rows_are_the_literal_recipes(fields: dict, rows: int):
    task = recall(**fields)
    batch = task.sample(HERE, rows)
    inputs, targets = written_by_hand(batch, task)
    assert batch.targets.tolist() == targets
    known = torch.arange(task.interface.length) < 2 * task.passes * batch.latents.counts[:, None]
    known |= batch.weights > 0
    assert torch.equal(batch.inputs * known, torch.tensor(inputs) * known)
    if task.filler == "zero":
        assert batch.inputs.tolist() == inputs


def test_training_steps_differ_and_repeat():
    task = recall()
    one, other = task.sample(HERE, 50), task.sample(Address(SEEDS, "data", 4), 50)
    assert same(task.sample(HERE, 50), one, 0, 50)
    assert (one.latents.keys != other.latents.keys).any(-1).all()


def test_fillers_are_all_symbols_equally_often():
    task = recall(vocabulary=8, length=16, pairs=1)
    batch = task.sample(HERE, 20_000)
    filled = (torch.arange(16) >= 2) & (batch.weights == 0)
    uses = torch.bincount(batch.inputs[filled], minlength=8)
    expected = int(filled.sum()) / 8
    assert (uses - expected).abs().max() < 5 * expected**0.5


# ---------------------------------------------------------------- distributions


def assert_shares(found: Counter, shares: dict[tuple[int, ...], float], draws: int) -> None:
    """Every outcome within five standard errors of its share, and no other outcome."""
    assert set(found) <= set(shares)
    for outcome, share in shares.items():
        assert abs(found[outcome] - draws * share) < 5 * (draws * share * (1 - share)) ** 0.5 + 1e-9, outcome


def test_distinct_numbers_come_in_every_order_equally_often():
    found = distinct(HERE.key("numbers"), 60_000, 3, 5)
    orders = list(itertools.permutations(range(5), 3))
    assert_shares(Counter(map(tuple, found.tolist())), dict.fromkeys(orders, 1 / len(orders)), 60_000)


def test_distinct_numbers_may_be_all_there_are_or_few_of_very_many():
    assert distinct(HERE.key("numbers"), 50, 7, 7).sort(-1).values.tolist() == [list(range(7))] * 50
    few = distinct(HERE.key("numbers"), 50, 100, 1 << 19)
    assert int(few.min()) >= 0 and int(few.max()) < 1 << 19
    assert all(len(set(row)) == 100 for row in few.tolist())


def successive(slots: int, count: int, power: float) -> dict[tuple[int, ...], float]:
    """The probability of every order of `count` slots, drawn one after the other with odds (g+1)^(power-1)."""
    odds = [(slot + 1) ** (power - 1) for slot in range(slots)]
    found = {}
    for order in itertools.permutations(range(slots), count):
        share, left = 1.0, sum(odds)
        for slot in order:
            share *= odds[slot] / left
            left -= odds[slot]
        found[order] = share
    return found


@pytest.mark.parametrize("slots, count, power", [(4, 2, 0.01), (4, 4, 0.01), (5, 3, 1.0), (4, 3, 2.5), (1, 1, 0.01)])
def test_questions_are_drawn_without_replacement_by_the_power_law(slots: int, count: int, power: float):
    rows = 40_000
    room = torch.full((rows,), slots)
    found = places_by_power(HERE.key("slots"), room, count, slots + 3, power)  # three slots that no row has
    assert_shares(Counter(map(tuple, found.tolist())), successive(slots, count, power), rows)


def test_a_mixture_draws_every_entry_equally_often():
    """And questions follow the law over the slots that each row has: more of them where it has fewer pairs."""
    task = recall(vocabulary=16, length=16, pairs=[1, 1, 3], power=0.5)
    batch = task.sample(HERE, 40_000)
    uses = Counter((int(count),) for count in batch.marks["pairs"])
    assert_shares(uses, {(1,): 2 / 3, (3,): 1 / 3}, 40_000)
    for count, slots in ((1, 7), (3, 5)):
        own = batch.latents.counts == count
        places = (batch.latents.places[own, :count] - 2 * count) // 2
        assert_shares(Counter(map(tuple, places.tolist())), successive(slots, count, 0.5), int(own.sum()))


# ---------------------------------------------------------------- stacks, steps and devices


@settings(max_examples=20, deadline=None)
@given(problems(), st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(1, 6), st.integers(0, 5))
def test_members_of_a_stack_get_what_their_own_tasks_draw(fields: dict, steps: list[int], rows: int, first: int):
    tasks = [recall(**fields) for _ in steps]
    seeds = tuple(Seeds().following(e) for e in range(len(steps)))
    together = Recall.combined(tasks).sample(Addresses(seeds, "data", torch.tensor(steps)), rows, first)
    for e, (task, own, step) in enumerate(zip(tasks, seeds, steps, strict=True)):
        alone = task.sample(Address(own, "data", step), rows, first)
        for name in ("inputs", "targets", "weights"):
            assert torch.equal(getattr(together, name)[e], getattr(alone, name)), (name, e)


@pytest.mark.parametrize("other", [{"pairs": 3}, {"power": 1.0}, {"passes": 2}, {"filler": "zero"}, {"length": 40}])
def test_tasks_that_differ_are_drawn_one_by_one(other: dict):
    fields = {"vocabulary": 32, "length": 32, "pairs": 2}
    assert Recall.combined([recall(**fields), recall(**fields | other)]) is None


def test_batches_can_be_drawn_where_the_step_is_counted():
    """What a CUDA graph of an update asks of a task: no look at values, no shapes that depend on them."""
    for fields in ({}, {"pairs": [2, 5], "passes": 2, "filler": "zero"}):
        task = recall(**fields)
        there = Address(SEEDS, "data", torch.tensor(3))
        assert why_not_on_device(task, there, 9, task.sample(HERE, 9), torch.device("cpu")) is None
