"""Rows are what a reader of the machines would make of them; finite data comes once an epoch."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core.batch import Batch
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Interface, Tokens
from inlearn.lab.config import Seeds
from inlearn.studies.automata.regbench_config import LETTERS, NOOP, SEPARATOR, SYMBOLS, RegBenchConfig
from inlearn.studies.automata.regbench_machines import identities
from inlearn.studies.automata.regbench_tasks import FinitePrompts, FreshPrompts, separated
from inlearn.training.feeds import why_not_on_device

SEEDS = Seeds().following(6)
HERE = Address(SEEDS, "data", 3)
SMALL = RegBenchConfig(nodes=(3, 5), letters=(3, 6), edges=(1, 2), word_length=(1, 5), words=(2, 4))
ONE_LETTER = RegBenchConfig(nodes=(3, 4), letters=(3, 6), edges=(1, 2), word_length=(1, 1), words=(2, 2))
FULL = RegBenchConfig(nodes=(3, 4), letters=(3, 6), edges=(2, 2), word_length=(6, 6), words=(3, 3))


def interface(law: RegBenchConfig) -> Interface:
    return Interface(Tokens(SYMBOLS), Tokens(SYMBOLS, among=LETTERS), law.length)


def fresh(law: RegBenchConfig = SMALL, split: str = "train") -> FreshPrompts:
    return FreshPrompts(interface(law), law, split)


def finite(size: int, batch: int | None = None, law: RegBenchConfig = SMALL) -> FinitePrompts:
    return FinitePrompts(interface(law), law, Address(SEEDS, "eval"), size, batch)


def words_of(batch: Batch, row: int) -> list[list[int]]:
    """The row's words, its last symbol among them if anything asks for it."""
    symbols = [s for s in batch.inputs[row].tolist() if s != NOOP]
    if batch.weights[row, len(symbols) - 1]:
        symbols.append(int(batch.targets[row, len(symbols) - 1]))
    words: list[list[int]] = [[]]
    for symbol in symbols:
        words.append([]) if symbol == SEPARATOR else words[-1].append(symbol)
    return words


def power(number: int) -> int:
    return 2 ** math.floor(math.log2(number) + 1e-9)


@pytest.mark.parametrize("law", [SMALL, ONE_LETTER, FULL, RegBenchConfig()], ids=["small", "letter", "full", "whole"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_read_as_they_should(law: RegBenchConfig, split: str):
    """By walking through the machines letter by letter, as a reader would."""
    task = fresh(law, split)
    batch = task.sample(HERE, 25)
    batch.check(task.interface)
    dfas = batch.latents.dfas
    for row in range(25):
        words = words_of(batch, row)
        assert law.words[0] <= len(words) <= law.words[1]
        asked: dict[int, tuple[int, int, int, int, int]] = {}
        place = 0
        for number, word in enumerate(words, 1):
            assert law.word_length[0] <= len(word) <= law.word_length[1]
            node = 0
            for i, letter in enumerate(word, 1):
                edges = [(a, t) for a, t in zip(*(x[row, node].tolist() for x in (dfas.letters, dfas.targets)),
                                                strict=True) if a < LETTERS]  # fmt: skip
                if place:
                    asked[place - 1] = letter, sum(1 << a for a, _ in edges), number, power(i), node
                node = dict(edges)[letter]
                place += 1
            place += 1
        assert batch.weights[row].nonzero().squeeze(-1).tolist() == sorted(asked)
        for t in range(law.length):
            found = (
                int(batch.targets[row, t]),
                *(int(batch.marks[name][row, t]) for name in ("legal", "word", "letter")),
                int(batch.latents.node[row, t]),
            )
            assert found == asked.get(t, (0, 0, 0, 0, 0))
            assert batch.marks["position"][row, t] == (power(t + 1) if t in asked else 0)
        shown = separated(batch.inputs[row].tolist())
        assert shown == "|".join("".join(chr(97 + s) for s in word) for word in words)[: len(shown)]


def test_lengths_are_uniform_and_letters_too():
    law = RegBenchConfig(nodes=(4, 4), letters=(4, 4), edges=(3, 3), word_length=(2, 4), words=(2, 5))
    batch = fresh(law).sample(HERE, 6000)
    words = [words_of(batch, row) for row in range(6000)]
    counts = Counter(map(len, words))
    assert all(abs(counts[n] - 1500) < 5 * (1500 * 0.75) ** 0.5 for n in (2, 3, 4, 5)) and sum(counts.values()) == 6000
    lengths = Counter(len(word) for row in words for word in row)
    total = sum(lengths.values())
    assert set(lengths) == {2, 3, 4}
    assert all(abs(count - total / 3) < 5 * (total * 2 / 9) ** 0.5 for count in lengths.values())
    # Of three edges each has one word in three, wherever it stands in the list.
    first = batch.latents.dfas.letters[:, 0]
    starts = Counter(first[row].tolist().index(word[0]) for row, own in enumerate(words) for word in own)
    assert all(abs(starts[e] - total / 3) < 5 * (total * 2 / 9) ** 0.5 for e in range(3))


def same(part: Batch, whole: Batch, first: int, rows: int) -> bool:
    cut = slice(first, first + rows)
    tensors = [(getattr(part, name), getattr(whole, name)) for name in ("inputs", "targets", "weights")]
    tensors += [(part.marks[name], whole.marks[name]) for name in whole.marks]
    tensors.append((part.latents.dfas.letters, whole.latents.dfas.letters))
    return all(torch.equal(one, other[cut]) for one, other in tensors)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 30), st.integers(1, 12), st.sampled_from(["train", "validation"]))
def test_a_row_depends_on_its_address_and_number_alone(first: int, rows: int, split: str):
    assert same(fresh(split=split).sample(HERE, rows, first), fresh(split=split).sample(HERE, 45), first, rows)


def test_splits_share_no_machine():
    names = {split: set(identities(fresh(split=split).sample(HERE, 400).latents.dfas))
             for split in ("train", "validation", "test")}  # fmt: skip
    assert not names["train"] & names["test"] and not names["train"] & names["validation"]
    assert not names["test"] & names["validation"] and len(names["test"]) > 200


def test_members_of_a_stack_get_what_their_own_tasks_draw():
    tasks, seeds = [fresh(), fresh()], (SEEDS, Seeds().following(8))
    steps = torch.tensor([5, 0])
    together = FreshPrompts.combined(tasks).sample(Addresses(seeds, "data", steps), 9, 2)
    for e in range(2):
        alone = tasks[e].sample(Address(seeds[e], "data", int(steps[e])), 9, 2)
        for name in ("inputs", "targets", "weights"):
            assert torch.equal(getattr(together, name)[e], getattr(alone, name))
    assert FreshPrompts.combined([fresh(), fresh(FULL)]) is None


def test_batches_can_be_drawn_where_the_step_is_counted():
    there = Address(SEEDS, "data", torch.tensor(3))
    assert why_not_on_device(fresh(), there, 9, fresh().sample(HERE, 9), torch.device("cpu")) is None


# ---------------------------------------------------------------- finite data


def rows_of(batch: Batch) -> list[bytes]:
    return [row.tobytes() for row in torch.cat((batch.inputs, batch.targets), -1).numpy()]


def test_finite_rows_come_once_an_epoch_in_another_order():
    task = finite(50, batch=20)
    steps = [rows_of(task.sample(Address(SEEDS, "data", step), 20)) for step in range(5)]
    laid = [row for step in steps for row in step]
    first, second = laid[:50], laid[50:]
    assert len(set(first)) == 50 and set(first) == set(second) and first != second
    assert rows_of(task.sample(Address(SEEDS, "data", 2), 7, 9)) == steps[2][9:16]
    machines = identities(task.dfas)
    assert len(set(machines)) == 50
    with pytest.raises(ValueError, match="needs the training batch"):
        finite(50).sample(Address(SEEDS, "data", 1), 20)


def test_finite_rows_are_the_evaluations_too_and_fewer_are_among_more():
    many, few = (rows_of(finite(size).sample(Address(SEEDS, "eval"), size)) for size in (60, 25))
    assert few == many[:25] and len(set(many)) == 60
    batch = finite(60).sample(Address(SEEDS, "eval"), 60)
    batch.check(finite(60).interface)
    held_out = identities(fresh(split="validation").sample(Address(SEEDS, "eval"), 300).latents.dfas)
    assert not set(identities(batch.latents.dfas)) & set(held_out)
