"""Grids of colours: every number in its block, blocks in order, numbers where they can be read."""

from __future__ import annotations

import pandas as pd
import pytest

from inlearn.charts.heatmap import LEGIBLE, heat_map
from inlearn.reports.figures import svg

COLUMNS = ["block", "across", "down", "value", "note"]


def cells(across: int) -> pd.DataFrame:
    rows = [
        (block, f"layer {a}", down, value + a / 100, "–")
        for value, block in enumerate(("own", "control"))
        for a in range(across)
        for down in ("state", "action")
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_each_number_is_drawn_in_its_block_and_blocks_are_kept_apart():
    chart = heat_map(cells(3), ["own", "control"], "accuracy", (0.0, 1.0)).to_dict()
    drawn = [row for rows in chart["datasets"].values() for row in rows if "text" in row]
    assert {(row["block"], row["across"], row["down"], row["text"]) for row in drawn} == {
        (block, f"layer {a}", down, f"{value + a / 100:.2f}".removeprefix("0"))
        for value, block in enumerate(("own", "control"))
        for a in range(3)
        for down in ("state", "action")
    }
    order = chart["layer"][0]["encoding"]["x"]["scale"]["domain"]
    own, control = ([f"{block}|layer {a}" for a in range(3)] for block in ("own", "control"))
    assert order[:3] == own and order[4:] == control and len(order) == 7
    picture = svg(chart)
    assert picture.count(">.02<") == 2 and ">own<" in picture and ">control<" in picture


def test_numbers_of_very_many_columns_are_left_to_the_pointer():
    many = heat_map(cells(LEGIBLE), ["own", "control"], "accuracy", (0.0, 1.0)).to_dict()
    assert len(many["layer"]) == 2 and ">.02<" not in svg(many)


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        heat_map(pd.DataFrame(columns=COLUMNS), ["own"], "accuracy", (0.0, 1.0))
