"""Batches of one run and of a stack: scored positions, micro-batches, members in front."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.core import draws
from inlearn.core.batch import Batch, grid
from inlearn.core.draws import Address, Addresses
from inlearn.core.spaces import Interface, Vectors
from inlearn.lab.config import Seeds

ROWS, STEPS = 5, 7


def batch(seed: int = 0, columns: slice | None = None, prefix: int | None = None) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.rand(ROWS, STEPS, generator=generator) > 0.5).float()
    if columns is not None:
        weights = torch.zeros(ROWS, STEPS)
        weights[:, columns] = 2.0
    contexts = None if prefix is None else torch.randn(prefix, 4, 3, generator=generator)
    inputs = torch.randn(ROWS, STEPS, 3, generator=generator)
    return Batch(inputs, torch.randn(ROWS, STEPS, 1, generator=generator), weights, contexts, columns=columns)


@given(st.integers(0, 6), st.integers(1, 7), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_fixed_columns_are_the_positions_that_the_weights_say(start, stop, stride):
    columns = slice(start, max(stop, start + 1), stride)
    fixed = batch(columns=columns)
    looked = Batch(fixed.inputs, fixed.targets, fixed.weights)
    fixed.check(Interface(Vectors(3), Vectors(1), STEPS))
    assert torch.equal(fixed.scored, looked.scored) and fixed.where == columns
    assert torch.equal(fixed.scored, grid(columns, ROWS, STEPS, torch.device("cpu")))
    row = torch.arange(ROWS) * 10
    for values in (fixed.targets, fixed.weights, row):
        assert torch.equal(fixed.at_scored(values), looked.at_scored(values))
    assert torch.equal(fixed.scored_rows, looked.scored_rows)
    assert fixed.part(1, 3).columns == columns and fixed.to("cpu").columns == columns


@pytest.mark.parametrize("columns", [slice(None, STEPS), slice(0, None), slice(-STEPS, STEPS), slice(0, STEPS + 1)])
def test_columns_without_a_plain_beginning_and_end_are_refused(columns):
    same = batch(columns=slice(0, STEPS))
    with pytest.raises(ValueError, match="fixed columns"):
        replace(same, columns=columns).check(Interface(Vectors(3), Vectors(1), STEPS))


@pytest.mark.parametrize("columns", [slice(0, 7, 2), slice(1, 6), slice(2, 3)])
def test_columns_that_disagree_with_the_weights_are_refused(columns):
    wrong = batch()
    with pytest.raises(ValueError, match="fixed columns"):
        Batch(wrong.inputs, wrong.targets, wrong.weights, columns=columns).check(
            Interface(Vectors(3), Vectors(1), STEPS)
        )


def test_unshared_rows_score_the_same_columns_later():
    own = Batch(torch.ones(4, 2, 1), torch.ones(4, 2, 1), torch.ones(4, 2), torch.zeros(2, 3, 1), columns=slice(0, 2))
    assert own.unshared().columns == slice(3, 5)
    own.unshared().check(Interface(Vectors(1), Vectors(1), 5))


@pytest.mark.parametrize("columns", [None, slice(0, 7, 2)])
def test_members_in_front_score_what_each_scores_alone(columns):
    each = [batch(seed, columns) for seed in range(3)]
    many = Batch.stacked(each)
    assert many.rows == ROWS and many.inputs.shape == (3, ROWS, STEPS, 3)
    for values in ("targets", "weights"):
        together = many.at_scored(getattr(many, values))
        for member, own in zip(together, each, strict=True):
            if columns is not None:
                assert torch.equal(member, own.at_scored(getattr(own, values)))
            else:  # every position, so that no member's arithmetic depends on which ones another scores
                assert torch.equal(member, getattr(own, values).flatten(0, 1))
    rows = torch.arange(3 * ROWS).view(3, ROWS)
    found = many.at_scored(rows)
    assert found.shape == (3, len(many.scored)) and torch.equal(found, rows[:, many.scored_rows])


def test_members_of_other_shapes_or_columns_are_refused():
    with pytest.raises(ValueError, match="score other columns"):
        Batch.stacked([batch(0, slice(0, 7, 2)), batch(1, slice(1, 7, 2))])
    short = Batch(torch.ones(ROWS, 6, 3), torch.ones(ROWS, 6, 1), torch.ones(ROWS, 6))
    with pytest.raises(ValueError, match=r"inputs of members have other shapes: \[\(5, 6, 3\), \(5, 7, 3\)\]"):
        Batch.stacked([batch(), short])
    with pytest.raises(ValueError, match="prefix of members have other shapes"):
        Batch.stacked([batch(prefix=1), batch(prefix=5)])


NAMES = st.lists(st.one_of(st.text(max_size=4), st.integers(0, 9)), max_size=2)


@given(
    seeds=st.lists(st.integers(0, (1 << 63) - 1), min_size=1, max_size=5),
    stream=st.sampled_from(["data", "noise", "dropout", "data/noise"]),
    what=NAMES,
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_addresses_are_an_address_for_each_member(seeds, stream, what, data):
    followed = tuple(Seeds().following(seed) for seed in seeds)
    count = len(seeds)
    steps = torch.tensor(data.draw(st.lists(st.integers(0, 1 << 40), min_size=2 * count, max_size=2 * count)))
    steps = steps.view(2, count)  # two steps of each member at once
    many = Addresses(followed, stream, steps)
    for at, of in ((many, lambda address: address), (many.beside("noise"), lambda address: address.beside("noise"))):
        keys = at.key(*what)
        drawn = draws.normal(keys, 3, (5,))
        assert keys.shape == (2, count) and drawn.shape == (2, count, 3, 5)
        for place, member in ((0, 0), (1, count - 1)):
            own = of(Address(followed[member], stream, int(steps[place, member])))
            assert torch.equal(own.key(*what), keys[place, member])
            assert torch.equal(draws.normal(own.key(*what), 3, (5,)), drawn[place, member])
