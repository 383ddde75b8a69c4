from __future__ import annotations

import math

import pandas as pd
import pytest
import vl_convert

from inlearn.charts import means

POINTS = pd.DataFrame(
    [("b", 0.5, 0.4, 0.6), ("a", 0.9, 0.8, 1.0), ("only one run", 0.7, math.nan, math.nan)],
    columns=["series", "mean", "low", "high"],
)
IDEAL = pd.DataFrame([("b", "look_up", 0.95), ("a", "look_up", 0.99)], columns=["series", "name", "value"])


def layers(chart):
    return {layer["mark"]["type"]: layer for layer in chart.to_dict()["layer"]}


def test_groups_stand_in_their_order_with_bars_where_there_are_intervals():
    chart = means.means_of_groups(POINTS, IDEAL, "accuracy (fraction)")
    spec, marks = chart.to_dict(), layers(chart)
    assert marks["circle"]["encoding"]["y"]["sort"] == ["b", "a", "only one run"]
    bars = spec["datasets"][marks["rule"]["data"]["name"]]
    assert [(bar["series"], bar["low"], bar["high"]) for bar in bars] == [("b", 0.4, 0.6), ("a", 0.8, 1.0)]
    assert spec["height"] == 3 * means.LINE
    svg = vl_convert.vegalite_to_svg({**spec, "width": 640}, show_warnings=False)
    for text in ("b", "a", "only one run", "look up", "accuracy (fraction)"):
        assert f">{text}<" in svg


def test_without_ideal_learners_or_intervals_there_are_only_dots():
    chart = means.means_of_groups(POINTS.tail(1), IDEAL.head(0), "loss")
    assert set(layers(chart)) == {"circle"}
    with pytest.raises(ValueError, match="nothing to draw"):
        means.means_of_groups(POINTS.head(0), IDEAL, "loss")


def test_values_over_several_decades_are_on_a_logarithmic_axis():
    wide = POINTS.assign(mean=[0.001, 1.0, 0.1], low=[0.0005, 0.9, math.nan], high=[0.002, 1.1, math.nan])
    spec = layers(means.means_of_groups(wide, IDEAL, "loss (nats)"))["circle"]["encoding"]["x"]
    assert spec["scale"]["type"] == "log" and spec["title"] == "loss (nats), log scale"
