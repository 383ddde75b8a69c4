from __future__ import annotations

import math
import re

import pandas as pd
import pytest
import vl_convert

from inlearn.charts import groups, theme


def points(levels, series=("model",)):
    rows = [
        {"series": name, "at": float(at), "mean": 1.0 + place, "low": 0.8 + place, "high": 1.2 + place}
        for name in series
        for place, at in enumerate(levels)
    ]
    return pd.DataFrame(rows)


def drawn(chart):
    spec = chart.to_dict()
    return spec, vl_convert.vegalite_to_svg({**spec, "width": 640}, show_warnings=False)


def test_levels_stand_on_a_log_axis_with_infinity_at_its_end():
    spec, svg = drawn(
        groups.values_against(points([1, 2, 4, 8, math.inf]), {"model": theme.Style("#000000")}, "count", "loss")
    )
    line = next(layer for layer in spec["layer"] if layer["mark"]["type"] == "line")
    places = [row["at"] for row in spec["datasets"][line["data"]["name"]]]
    assert places[:4] == [0, 1, 2, 3] and places[4] > 3
    for text in ("1", "2", "4", "8", "∞", "count (log scale)"):
        assert f">{text}<" in svg


def test_the_legend_has_the_colours_of_the_curves():
    """Error bars are pale; vega would give the legend their opacity."""
    styles = groups.ordered_styles(["1", "2"])
    _, svg = drawn(groups.values_against(points([1, 2], ["1", "2"]), styles, "n", "loss", "count"))
    symbols = re.findall(r'<g class="mark-symbol role-legend-symbol"[^>]*>(.*?)</g>', svg)
    assert len(symbols) == 2
    assert all(re.search(r' (?:stroke-)?opacity="(?!1")', symbol) is None for symbol in symbols)


def test_narrow_levels_and_levels_below_zero_stand_on_a_linear_axis():
    for levels in ([1, 2, 3], [-1, 0, 100]):
        _, svg = drawn(groups.values_against(points(levels), {"model": theme.Style("#000000")}, "width", "loss"))
        assert ">width<" in svg and all(
            f">{level}<".replace("-", "−") in svg or f">{level}<" in svg for level in levels
        )


def test_a_group_of_one_run_has_a_point_and_no_bar():
    table = points([1, 2, 4]).assign(low=[0.5, math.nan, 2.5], high=[1.5, math.nan, 3.5])
    spec, _ = drawn(groups.values_against(table, {"model": theme.Style("#000000")}, "n", "loss"))
    number = {
        layer["mark"]["type"]: len(spec["datasets"][layer["data"]["name"]])
        for layer in spec["layer"]
        if "data" in layer
    }
    assert number == {"rule": 2, "line": 3, "circle": 3}


def test_nothing_to_draw_is_said():
    for table in (points([]), points([math.inf])):
        table = table if len(table) else pd.DataFrame(columns=["series", "at", "mean", "low", "high"])
        with pytest.raises(ValueError, match="nothing to draw"):
            groups.values_against(table, {"model": theme.Style("#000000")}, "n", "loss")


def test_twenty_one_levels_are_told_apart_and_their_legend_fits_a_phone():
    names = [str(2**k) for k in range(20)] + ["inf"]
    styles = groups.ordered_styles(names)
    assert len({(style.colour, style.dash) for style in styles.values()}) == 21
    assert all(a.dash != b.dash for a, b in zip(list(styles.values()), list(styles.values())[1:], strict=False))
    _, svg = drawn(groups.values_against(points([1, 2], names), styles, "n", "loss", "count"))
    assert all(f">{name}<" in svg for name in names)
    assert groups.ordered_styles(["one"])["one"].colour == groups.RAMP[0]


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (3, 3.0),
        (0.5, 0.5),
        ("inf", math.inf),
        ("infinite", math.inf),
        ("lstm", None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_what_reads_as_a_number(level, number):
    assert groups.level_number(level) == number
