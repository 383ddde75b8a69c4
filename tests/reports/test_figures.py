from __future__ import annotations

import re

import altair as alt
import pandas as pd
import pytest
import vl_convert

from inlearn.reports import figures


def clipped(last: int = 2) -> alt.Chart:
    data = pd.DataFrame({"x": [1, last], "y": [3, 4]})
    return alt.Chart(data).mark_line(clip=True).encode(x="x", y="y").interactive()


def test_an_svg_is_the_same_every_time():
    raw = [vl_convert.vegalite_to_svg(clipped().to_dict(), vl_version=figures.VEGA_LITE) for _ in range(2)]
    assert raw[0] != raw[1]  # what this guards against
    assert figures.svg(clipped().to_dict()) == figures.svg(clipped().to_dict())


def test_renumbered_clips_still_refer_to_each_other():
    text = figures.svg(alt.layer(clipped(), clipped(9).mark_point(clip=True)).to_dict())
    used = set(re.findall(r"url\(#(\w+)\)", text))
    assert used and used <= set(re.findall(r'id="(\w+)"', text))


def test_a_container_is_as_wide_as_a_printed_page(page_sections):
    spec = page_sections[0].chart.to_dict()
    assert spec["width"] == "container"
    text = figures.svg(spec)
    assert text.startswith("<svg") and "ridge" in text
    width = float(text.split('width="')[1].split('"')[0])
    assert figures.PRINT_WIDTH < width < figures.PRINT_WIDTH + 120
    assert spec["width"] == "container"


def test_an_svg_fetches_nothing():
    chart = alt.Chart("https://example.org/data.csv").mark_point().encode(x="x:Q")
    with pytest.raises(ValueError, match=r"example\.org"):
        figures.svg(chart.to_dict())


def test_the_bundle_is_the_release_that_altair_writes_for():
    assert figures.VEGA_LITE in vl_convert.get_vegalite_versions()
    assert "window.vegaEmbed" in figures.vega_bundle()


def test_file_names_are_plain():
    assert figures.file_name("Loss over gain², inputs") == "loss-over-gain-inputs"
    assert figures.file_name("../../etc") == "etc"
    assert figures.file_name("¿?") == "figure"
