from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import altair as alt
import numpy as np
import pandas as pd
import pytest

from inlearn.core.errors import EnvironmentFault
from inlearn.reports import page
from inlearn.reports.page import Section, cell, write_page


class Elements(HTMLParser):
    """Every element's name and attributes, and the text of scripts and cells."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.texts.append((self.found[-1][0] if self.found else "", data.strip()))


def chart(text: str = "a") -> alt.Chart:
    return alt.Chart(pd.DataFrame({"x": [text], "y": [1.0]})).mark_point().encode(x="x:N", y="y:Q")


def test_the_same_content_gives_the_same_bytes(tmp_path, page_sections):
    for name in ("one", "two"):
        folder = tmp_path / name
        write_page(folder / "report.html", folder / "figures", "A run", "It ran.", page_sections, [("id", "1")])
    one, two = (sorted(p for p in (tmp_path / n).rglob("*") if p.is_file()) for n in ("one", "two"))
    assert [p.name for p in one] == [p.name for p in two] and len(one) == 4
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_every_chart_is_on_the_page_and_beside_it(tmp_path, page_sections):
    write_page(tmp_path / "report.html", tmp_path / "figures", "A run", "It ran.", page_sections)
    text = (tmp_path / "report.html").read_text()
    links = [attrs["href"] for tag, attrs in Elements(text).found if tag == "a"]
    assert links == [
        "figures/where-is-the-model-heading.svg",
        "figures/loss-over-training.svg",
        "figures/loss-at-each-context-position.svg",
    ]
    assert all((tmp_path / link).read_text().startswith("<svg") for link in links)
    specs = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)
    assert [json.loads(spec)["$schema"].split("/")[-2] for spec in specs] == ["vega-lite"] * 3


def test_sections_of_one_title_have_files_of_their_own(tmp_path):
    sections = [Section("Loss", "", chart()), Section("Loss!", "", chart("b")), Section("Loss 2", "", chart("c"))]
    write_page(tmp_path / "p.html", tmp_path / "pictures", "t", "s", sections)
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["loss-2-2.svg", "loss-2.svg", "loss.svg"]


def test_figures_may_lie_elsewhere(tmp_path):
    write_page(tmp_path / "a" / "p.html", tmp_path / "b c" / "figures", "t", "s", [Section("Loss", "", chart())])
    assert 'href="../b%20c/figures/loss.svg"' in (tmp_path / "a" / "p.html").read_text()


def test_text_from_outside_stays_text(tmp_path):
    bad = "</script><img src=x onerror=alert(1)>"
    frame = pd.DataFrame({bad: [bad]})
    write_page(
        tmp_path / "p.html", tmp_path / "f", bad, bad, [Section(bad, bad, chart(bad))], [(bad, bad)], [(bad, frame)]
    )
    text = (tmp_path / "p.html").read_text()
    elements = Elements(text)
    assert not any("onerror" in attrs for _, attrs in elements.found)
    assert [data for tag, data in elements.texts if tag in ("td", "h1")] == [bad, bad, bad]
    spec = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.S)[1])
    assert [row["x"] for rows in spec["datasets"].values() for row in rows] == [bad]


def test_nothing_on_the_page_comes_from_the_network(tmp_path, page_sections):
    write_page(tmp_path / "p.html", tmp_path / "f", "t", "s", page_sections)
    elements = Elements((tmp_path / "p.html").read_text())
    addresses = [attrs[key] for _, attrs in elements.found for key in ("src", "href") if key in attrs]
    assert addresses and not [address for address in addresses if re.match(r"(\w+:)?//", address)]
    policy = next(attrs["content"] for _, attrs in elements.found if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'") and "eval" not in policy


def test_a_page_without_charts_is_light(tmp_path):
    write_page(tmp_path / "p.html", tmp_path / "f", "t", "One.\n\nTwo.", (), [("id", "1")])
    text = (tmp_path / "p.html").read_text()
    assert len(text) < 10_000 and "<script" not in text
    assert [data for tag, data in Elements(text).texts if tag == "p"] == ["One.", "Two."]


def test_a_failed_chart_leaves_the_old_page(tmp_path):
    path = tmp_path / "p.html"
    write_page(path, tmp_path / "f", "old", "s")
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"example\.org"):
        broken = alt.Chart("https://example.org/data.csv").mark_point().encode(x="x:Q")
        write_page(path, tmp_path / "f", "new", "s", [Section("Loss", "", broken)])
    assert path.read_bytes() == before
    assert not list(tmp_path.rglob("*.aside"))


def test_a_disk_that_refuses_is_an_environment_fault(tmp_path, monkeypatch):
    def refuse(self, *arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(EnvironmentFault, match="disk is full"):
        write_page(tmp_path / "p.html", tmp_path / "f", "t", "s")


def test_cells_read_well():
    assert [cell(v) for v in (1.65512, 0.000123456, 12042.3, 7, 500_000, np.int64(3), np.float64(2.0))] == [
        "1.655", "0.0001235", "12,042", "7", "500,000", "3", "2",
    ]  # fmt: skip
    assert [cell(v) for v in (None, float("nan"), pd.NA, True, "ridge")] == ["–", "–", "–", "yes", "ridge"]


def test_columns_of_numbers_stand_to_the_right():
    frame = pd.DataFrame({"set": ["a", "b"], "mean": [1.0, None], "n": [1, 2]})
    assert page._table("t", frame)["right"] == [False, True, True]
