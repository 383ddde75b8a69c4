"""Means and cluster-honest errors against the obvious computation."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inlearn.evaluation.sums import Grouping

NUMBERS = st.lists(st.tuples(st.floats(-10, 10), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=40)


@given(NUMBERS)
@settings(deadline=None)
def test_against_plain_python(rows):
    values, clusters, marks = (torch.tensor(column) for column in zip(*rows, strict=True))
    summary = Grouping(clusters, [marks]).summary(values)
    assert summary.levels == sorted({(m,) for _, _, m in rows})
    columns = (summary.levels, summary.means, summary.errors, summary.counts)
    for level, mean, error, count in zip(*columns, strict=True):
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
    summary = Grouping(torch.arange(4), []).summary(values)
    assert (summary.levels, summary.means, summary.counts) == ([()], [4.0], [4])
    assert math.isclose(summary.errors[0], float(values.std()) / 2, rel_tol=1e-6)


def test_values_that_repeat_inside_a_cluster_add_no_certainty():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    once = Grouping(torch.arange(4), []).summary(values)
    thrice = Grouping(torch.arange(4).repeat_interleave(3), []).summary(values.repeat_interleave(3))
    assert math.isclose(once.errors[0], thrice.errors[0])


def test_several_marks_make_joint_levels():
    first, second = torch.tensor([0, 0, 1, 1]), torch.tensor([5, 7, 5, 5])
    summary = Grouping(torch.arange(4), [first, second]).summary(torch.tensor([1.0, 2.0, 3.0, 5.0]))
    assert summary.levels == [(0, 5), (0, 7), (1, 5)] and summary.means == [1.0, 2.0, 4.0]


def test_weights_weigh_as_they_do_in_training():
    """Errors 1 and 9 with weights 1 and 9: (1 + 81) / 10."""
    weights = torch.tensor([1.0, 9.0])
    summary = Grouping(torch.arange(2), [], weights).summary(torch.tensor([1.0, 9.0]))
    assert summary.means == [8.2] and summary.counts == [2]
    doubled = Grouping(torch.arange(2), [], 2 * weights).summary(torch.tensor([1.0, 9.0]))
    assert math.isclose(summary.errors[0], doubled.errors[0])
