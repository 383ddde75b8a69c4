"""Ideal learners against a reader of the words who counts in dictionaries; measures of known answers."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.spaces import Interface, Tokens
from inlearn.lab.config import Seeds
from inlearn.studies.automata.regbench_config import LETTERS, SEPARATOR, SYMBOLS, RegBenchConfig
from inlearn.studies.automata.regbench_measures import REGBENCH_MEASURES, l1, legal, loss, total_variation
from inlearn.studies.automata.regbench_references import FLOOR, BackOff, Oracle, Uniform, legal_letters
from inlearn.studies.automata.regbench_tasks import FreshPrompts

SEEDS = Seeds().following(2)
HERE = Address(SEEDS, "eval")
LAW = RegBenchConfig(nodes=(4, 6), letters=(4, 6), edges=(1, 3), word_length=(1, 9), words=(3, 6))
SPACE = Tokens(SYMBOLS, among=LETTERS)


def rows(count: int, law: RegBenchConfig = LAW) -> Batch:
    return FreshPrompts(Interface(Tokens(SYMBOLS), SPACE, law.length), law, "test").sample(HERE, count)


def by_counting(text: list[int], order: int) -> dict[int, float]:
    """What follows `text` by the authors' recipe, whose words are padded with `order` - 1 blanks at the front only."""
    words: list[list[int]] = [[]]
    for symbol in text:
        words.append([]) if symbol == SEPARATOR else words[-1].append(symbol)
    counts = {n: Counter() for n in range(1, order + 1)}
    for word in words:
        padded = [-1] * (order - 1) + word
        for n in counts:
            counts[n].update(tuple(padded[i : i + n]) for i in range(len(padded) - n + 1))
    vocabulary = sorted({symbol for word in words for symbol in word})
    before = tuple(([-1] * (order - 1) + words[-1])[len(words[-1]) :]) if order > 1 else ()

    def shares(context: tuple[int, ...], n: int) -> dict[int, float]:
        if n == 1:
            total = counts[1].total()
            return {letter: counts[1][(letter,)] / total for letter in vocabulary}
        seen = {a: counts[n][(*context, a)] / counts[n - 1][context] for a in vocabulary if counts[n][(*context, a)]}
        lower = shares(context[1:], n - 1)
        rest = {letter: lower[letter] for letter in vocabulary if letter not in seen}
        spread = (1 - sum(seen.values())) / sum(rest.values()) if rest else 0.0
        return seen | {letter: spread * share for letter, share in rest.items()}

    found = shares(before, order)
    if order == 1:  # blanks are no letters, and there are none
        assert sum(found.values()) == pytest.approx(1.0)
    return found


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_back_off_is_what_counting_in_dictionaries_says(order: int):
    batch = rows(12)
    found = BackOff(order).predict(batch)
    assert found.shape == (len(batch.scored), SYMBOLS) and found.dtype == torch.float64
    width, places = batch.inputs.shape[1], batch.scored.tolist()
    for place, prediction in zip(places, found.exp(), strict=True):
        row, column = divmod(place, width)
        shares = by_counting(batch.inputs[row, : column + 1].tolist(), order)
        total = sum(shares.values()) + LETTERS * FLOOR
        wanted = torch.zeros(SYMBOLS, dtype=torch.float64)
        wanted[:LETTERS] = FLOOR / total
        for letter, share in shares.items():
            wanted[letter] = (share + FLOOR) / total
        assert torch.allclose(prediction, wanted, rtol=1e-9, atol=1e-15)


def test_a_trigram_by_hand():
    """ab|ab|a: after blank, a came b twice, and the present a is the third: 2/3 for b, the rest for a."""
    inputs = torch.tensor([[0, 1, SEPARATOR, 0, 1, SEPARATOR, 0]])
    shares = BackOff(3).shares(inputs)[0]
    assert shares[6].tolist()[:2] == pytest.approx([1 / 3, 2 / 3]) and shares[6, 2:].sum() == 0
    # A word begins: both began with a, the present one has not begun. One share is left for b.
    assert shares[5].tolist()[:2] == pytest.approx([2 / 3, 1 / 3])
    # After the first symbol of all nothing but it is known.
    assert shares[0].tolist()[:2] == pytest.approx([1.0, 0.0])


def test_the_future_does_not_matter():
    batch = rows(6)
    cut = batch.inputs.clone()
    cut[:, 20:] = torch.randint(0, SYMBOLS, cut[:, 20:].shape)
    for order in (1, 2, 3):
        assert torch.equal(BackOff(order).shares(batch.inputs)[:, :20], BackOff(order).shares(cut)[:, :20])


def test_the_oracle_knows_the_machine_and_nobody_is_better():
    batch = rows(60)
    found = Oracle().predict(batch)
    dfas, node = batch.latents.dfas, batch.at_scored(batch.latents.node)
    for row, here, prediction in zip(batch.scored_rows.tolist(), node.tolist(), found.exp(), strict=True):
        letters = [a for a in dfas.letters[row, here].tolist() if a < LETTERS]
        wanted = torch.zeros(SYMBOLS, dtype=torch.float64)
        wanted[letters] = 1 / len(letters)
        assert torch.allclose(prediction, wanted)
    entropy = legal_letters(batch.at_scored(batch.marks["legal"])).sum(-1).double().log()
    assert torch.allclose(loss(batch, SPACE, found), entropy)
    best = loss(batch, SPACE, found).mean()
    for other in (*(BackOff(n) for n in (1, 2, 3)), Uniform()):
        assert loss(batch, SPACE, other.predict(batch)).mean() > best
        assert SPACE.divergence(found, other.predict(batch)).isfinite().all()


def test_uniform_is_one_in_eighteen():
    batch = rows(5)
    found = Uniform().predict(batch)
    assert loss(batch, SPACE, found).tolist() == pytest.approx([math.log(18)] * len(batch.scored))
    assert (found[:, LETTERS:] == -torch.inf).all()


# ---------------------------------------------------------------- measures


def test_measures_by_hand():
    batch = rows(3)
    count = len(batch.scored)
    allowed = legal_letters(batch.at_scored(batch.marks["legal"]))
    sizes = allowed.sum(-1).double()
    wrong = (~allowed).int().argmax(-1)
    right = allowed.int().argmax(-1)
    share = torch.zeros(count, SYMBOLS, dtype=torch.float64)
    share[torch.arange(count), wrong], share[torch.arange(count), right] = 0.25, 0.75
    prediction = share.log()
    assert legal(batch, SPACE, prediction).all()
    # 0.25 stands where nothing may; of what may, 1/n each, 0.75 stands on one.
    off = 0.25 + (0.75 - 1 / sizes).abs() + (sizes - 1) / sizes
    assert torch.allclose(l1(batch, SPACE, prediction), off)
    assert torch.allclose(total_variation(batch, SPACE, prediction), off / 2)
    share[torch.arange(count), wrong], share[torch.arange(count), right] = 0.75, 0.25
    assert not legal(batch, SPACE, share.log()).any()
    came = batch.at_scored(batch.targets) == right
    assert torch.allclose(loss(batch, SPACE, share.log())[came], torch.tensor(-math.log(0.25), dtype=torch.float64))


def test_the_oracle_is_perfect_and_padding_is_never_legal():
    batch = rows(40)
    values = {m.name: m.value(batch, SPACE, Oracle().predict(batch)) for m in REGBENCH_MEASURES}
    assert values["accuracy"].all() and values["total_variation"].abs().max() < 1e-12
    padding = torch.full((len(batch.scored), SYMBOLS), -50.0, dtype=torch.float64)
    padding[:, SYMBOLS - 1] = 0.0
    assert not legal(batch, SPACE, padding).any()
    assert torch.allclose(total_variation(batch, SPACE, padding), torch.ones((), dtype=torch.float64))
