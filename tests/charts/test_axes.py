from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inlearn.charts.axes import ValueScale, kept_apart, step_axis


def test_steps_have_a_place_for_zero_and_true_numbers():
    axis = step_axis([0, 1, 984, 500_000]).to_dict()
    assert axis["scale"] == {"type": "symlog", "constant": 1, "domain": [0, 500_000], "nice": False}
    assert axis["axis"]["values"] == [0, 1, 10, 100, 1000, 10_000, 100_000]


def test_the_scale_is_linear_up_to_the_first_step_only():
    axis = step_axis([0, 20, 40, 60]).to_dict()
    assert axis["scale"]["constant"] == 20
    assert axis["axis"]["values"] == [0, 20, 50]


def test_a_single_step_still_has_an_axis():
    assert step_axis([0]).to_dict()["scale"]["domain"] == [0, 1]


def test_values_choose_their_scale():
    assert ValueScale.around([0.01, 4.0], []).log
    assert not ValueScale.around([1.5, 4.0], []).log
    assert not ValueScale.around([0.0, 4.0], []).log
    assert ValueScale.around([1.5, 4.0], []).low == 0.0
    assert ValueScale.around([-3.0, -1.0], []).high > 0.0


def test_a_wild_interval_does_not_flatten_the_curves():
    scale = ValueScale.around([1.0, 2.0], [-500.0, 900.0, math.nan])
    assert scale.low >= -1.2 and scale.high <= 3.2


def test_a_log_axis_has_ticks_inside_its_domain():
    axis = ValueScale.around([0.02, 3.0], []).axis("mean", "loss").to_dict()
    low, high = axis["scale"]["domain"]
    assert all(low <= tick <= high for tick in axis["axis"]["values"])
    assert axis["axis"]["values"][:3] == pytest.approx([0.02, 0.05, 0.1])
    assert axis["title"] == "loss, log scale"


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), st.floats(0.0, 1.0))
def test_pixel_and_value_are_inverse(means, part):
    scale = ValueScale.around(means, [])
    value = scale.low + part * (scale.high - scale.low)
    assert scale.value(scale.pixel(value)) == pytest.approx(value, rel=1e-6, abs=1e-9 * scale.high)


@given(st.lists(st.floats(0.0, 300.0), min_size=1, max_size=8), st.floats(1.0, 20.0))
def test_labels_are_kept_apart(wanted, gap):
    placed = kept_apart(wanted, gap, 285.0)
    ordered = sorted(placed)
    assert all(b - a >= gap - 1e-9 for a, b in itertools.pairwise(ordered))
    assert ordered[-1] <= 285.0


@given(st.lists(st.floats(0.0, 200.0), min_size=1, max_size=5))
def test_labels_with_room_stay_where_they_are(wanted):
    assume(all(b - a >= 15 for a, b in itertools.pairwise(sorted(wanted))))
    assert kept_apart(wanted, 15.0, 285.0) == pytest.approx(wanted, abs=1e-9)
