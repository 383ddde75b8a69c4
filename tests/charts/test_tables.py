from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inlearn.charts import tables


def test_evaluated_gives_a_column_a_mark(table):
    rows = tables.evaluated(table, "loss", "train", ("position",))
    assert rows["position"].tolist() == [0, 1, 2, 3] * 5
    assert set(rows["learner"]) == {"model"}
    assert set(tables.evaluated(table, "loss", "train", learner=None)["learner"]) == {"ridge", "zero"}
    assert tables.evaluated(table, "loss", "nowhere", ("position",)).empty


def test_one_run_has_normal_intervals(table):
    found = tables.curves(tables.evaluated(table, "loss", "train"), "step")
    assert found["step"].tolist() == [0, 1, 10, 100, 1000]
    assert found["mean"].tolist() == [4.0, 3.5, 3.0, 2.5, 2.0]
    assert found["high"].tolist() == pytest.approx([1.0 * m + 1.959964 * m / 10 for m in found["mean"]])


def test_an_unknown_error_leaves_the_band_out(table):
    found = tables.curves(tables.evaluated(table, "icl_1_4", "train"), "step")
    assert found["low"].isna().all() and found["mean"].notna().all()


def test_several_runs_have_students_interval_at_shared_steps(make_rows, make_table):
    values = {"a": 1.0, "b": 2.0, "c": 4.5}
    rows = [make_rows(run, step, "loss", {(): value}) for run, value in values.items() for step in (0, 10)]
    rows.append(make_rows("a", 5, "loss", {(): 9.0}))
    found = tables.curves(make_table(*rows), "step")
    assert found["step"].tolist() == [0, 10]
    low, high = stats.t.interval(0.95, 2, loc=2.5, scale=stats.sem([1.0, 2.0, 4.5]))
    assert found[["mean", "low", "high"]].to_numpy() == pytest.approx(np.array([[2.5, low, high]] * 2))


def test_floors_average_runs(make_rows, make_table):
    rows = [make_rows(run, None, "loss", {(): v}, learner="ridge") for run, v in (("a", 1.0), ("b", 2.0))]
    assert tables.floors(make_table(*rows)).to_dict("records") == [{"learner": "ridge", "value": 1.5}]


def test_mixed_units_are_refused(make_rows, make_table):
    mixed = make_table(make_rows("a", 0, "loss", {(): 1.0}), make_rows("a", 1, "loss", {(): 1.0}, unit="nats"))
    with pytest.raises(ValueError, match=r"nats.*squared error"):
        tables.unit_of(mixed)
    with pytest.raises(ValueError, match="no rows"):
        tables.unit_of(mixed[:0])


def test_training_losses_are_averaged_in_bins():
    steps = np.arange(1, 5001)
    curve = tables.training_curve(pd.DataFrame({"step": steps, "loss": 3.0 + (-1.0) ** steps}), places=50)
    assert len(curve) <= 50
    assert curve["step"].is_monotonic_increasing
    assert curve["mean"].iloc[-1] == pytest.approx(3.0, abs=0.01)
    short = tables.training_curve(pd.DataFrame({"step": [1, 2], "loss": [5.0, 4.0]}))
    assert short[["step", "mean"]].to_numpy().tolist() == [[1, 5.0], [2, 4.0]]


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=60), st.integers(2, 7))
def test_chosen_steps_exist_and_hold_both_ends(steps, count):
    chosen = tables.chosen_steps(steps, count)
    assert set(chosen) <= set(steps)
    assert chosen[0] == min(steps) and chosen[-1] == max(steps)
    assert len(chosen) <= count


def test_chosen_steps_are_spread_in_the_logarithm():
    assert tables.chosen_steps([10**i - 1 for i in range(7)], 4) == [0, 99, 9999, 999_999]
