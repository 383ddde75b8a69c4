"""Rows: parts that share none, repeats left out, labels that go with other rows."""

from __future__ import annotations

import pytest
import torch

from inlearn.analysis.probe.rows import different, parted
from inlearn.analysis.probe.targets import shuffled
from inlearn.core.batch import Batch
from inlearn.core.errors import UserError


def batch(rows: int, prefix: torch.Tensor | None = None, inputs: torch.Tensor | None = None) -> Batch:
    inputs = torch.arange(rows * 3).view(rows, 3) if inputs is None else inputs
    weights = torch.zeros(rows, 3)
    weights[:, 1:] = 1.0
    return Batch(inputs, inputs, weights, prefix)


def test_parts_are_rows_that_stand_together():
    parts = parted(batch(20), 2)
    assert parts.rows == (12, 16, 20)
    assert parts.slices == (slice(0, 24), slice(24, 32), slice(32, 40))
    with pytest.raises(UserError, match="4 different groups of 5 rows; expected at least 5"):
        parted(batch(20), 5)


def test_a_finite_set_that_comes_round_again_is_read_once():
    once = torch.randperm(30, generator=torch.Generator().manual_seed(0)).view(10, 3)
    found, rows = different(batch(25, inputs=once.repeat(3, 1)[:25]), 1)
    assert rows.tolist() == list(range(10)) and torch.equal(found.inputs, once)


def test_rows_of_one_prefix_are_kept_or_left_out_together():
    prefix = torch.tensor([[1], [2], [1], [1]])
    inputs = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [5, 5, 5], [1, 1, 1]])
    found, rows = different(batch(8, prefix, inputs), 2)
    assert rows.tolist() == [0, 1, 2, 3, 6, 7]
    assert found.prefix.tolist() == [[1], [2], [1]] and torch.equal(found.inputs, inputs[rows])


def test_shuffled_labels_are_another_rows_within_a_part_and_those_for_judging_are_as_they_were():
    counts = torch.randint(1, 6, (40,), generator=torch.Generator().manual_seed(3))
    rows = torch.arange(40).repeat_interleave(counts)
    along = torch.cat([torch.arange(n) for n in counts.tolist()])
    values = rows * 10 + along  # each label says whose it is
    values[::7] = -1
    ends = [int((rows < end).sum()) for end in (24, 32, 40)]
    parts = slice(0, ends[0]), slice(ends[0], ends[1]), slice(ends[1], ends[2])
    found = shuffled(values, rows, parts[:2], 0, "name")
    assert torch.equal(found < 0, values < 0)
    assert torch.equal(found[parts[2]], values[parts[2]])
    moved = 0
    for part, limits in ((parts[0], (0, 24)), (parts[1], (24, 32))):
        known = values[part] >= 0
        givers, takers = found[part][known] // 10, rows[part][known]
        assert ((givers >= limits[0]) & (givers < limits[1])).all()
        pairs = {(int(a), int(b)) for a, b in zip(takers, givers, strict=True)}
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})  # each row gives to one
        moved += sum(a != b for a, b in pairs)
    assert moved > 20
    assert not torch.equal(found, shuffled(values, rows, parts[:2], 1, "name"))
    assert not torch.equal(found, shuffled(values, rows, parts[:2], 0, "other"))
