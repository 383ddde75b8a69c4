"""Means and cluster-honest errors against the obvious computation."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.evaluation.sums import Slices

NUMBERS = st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40)


@given(NUMBERS, st.integers(0, 40))
@settings(deadline=None)
def test_against_plain_python_in_whatever_chunks(rows, cut):
    slices = Slices()
    for part in (rows[:cut], rows[cut:]):
        if part:
            values, clusters, marks = (torch.tensor(column) for column in zip(*part, strict=True))
            slices.add(values, clusters, [marks])
    levels, means, errors, counts = slices.table()
    assert levels == sorted({(m,) for _, _, m in rows})
    for level, mean, error, count in zip(levels, means, errors, counts, strict=True):
        own = [(v, c) for v, c, m in rows if (m,) == level]
        assert count == len(own)
        expected = math.fsum(v for v, _ in own) / len(own)
        assert math.isclose(mean, expected, abs_tol=1e-6)
        names = {c for _, c in own}
        if len(names) < 2:
            assert error is None
            continue
        residuals = [sum(v - expected for v, c in own if c == name) for name in names]
        variance = sum(r * r for r in residuals) * len(names) / (len(names) - 1)
        assert math.isclose(error, math.sqrt(variance) / len(own), rel_tol=1e-5, abs_tol=1e-6)


def test_one_value_a_cluster_gives_the_textbook_standard_error():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    slices = Slices()
    slices.add(values, torch.arange(4), [])
    levels, means, errors, counts = slices.table()
    assert (levels, means, counts) == ([()], [4.0], [4])
    assert math.isclose(errors[0], float(values.std()) / 2, rel_tol=1e-6)


def test_values_that_repeat_inside_a_cluster_add_no_certainty():
    once, thrice = Slices(), Slices()
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    once.add(values, torch.arange(4), [])
    thrice.add(values.repeat_interleave(3), torch.arange(4).repeat_interleave(3), [])
    assert math.isclose(once.table()[2][0], thrice.table()[2][0])
