"""The page in a real browser: it draws every chart, asks the network for nothing and fits a phone."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from inlearn.reports.page import write_page

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
ALL_DONE = (
    "document.querySelectorAll('.chart[data-drawn], .failure').length === document.querySelectorAll('figure').length"
)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser test")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(QUIET))
        yield running
        running.close()


@pytest.fixture
def written(tmp_path, trained, page_sections) -> Path:
    last = trained[trained["step"] == trained["step"].max()].drop(columns=["level"])
    facts = [("command", "inlearn run regression preset=main-lr " + "x" * 300), ("run", "0123456789ab")]
    path = tmp_path / "report.html"
    write_page(path, tmp_path / "figures", "A run", "What it did.", page_sections, facts, [("Last numbers", last)])
    return path


def opened(browser, path: Path, width: int):
    """(page with every chart drawn, console errors and warnings, addresses outside the file)."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: told.append(str(error)))
    local = ("data:", "blob:", path.as_uri())
    page.on("request", lambda request: None if request.url.startswith(local) else asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function(ALL_DONE, timeout=60_000)
    return page, told, asked


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(browser, written, width):
    page, told, asked = opened(browser, written, width)
    assert told == []
    assert asked == []
    assert page.locator(".failure, .error").count() == 0
    charts = page.locator(".chart")
    assert charts.count() == 3
    for i in range(3):
        paths = charts.nth(i).locator("svg .mark-line path")
        assert paths.count() >= 1
        assert all(len(d) > 20 for d in paths.evaluate_all("paths => paths.map(path => path.getAttribute('d'))"))
        # Nothing of a chart is cut off: every text of the SVG lies inside the window.
        boxes = (
            charts.nth(i)
            .locator("svg text")
            .evaluate_all("texts => texts.map(text => text.getBoundingClientRect()).map(box => [box.left, box.right])")
        )
        assert min(left for left, _ in boxes) >= 0 and max(right for _, right in boxes) <= width
        box = charts.nth(i).locator("svg").first.bounding_box()
        place = charts.nth(i).bounding_box()
        assert 0.9 * place["width"] < box["width"] <= place["width"] + 1
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_wide_table_scrolls_in_its_own_box(browser, written):
    page, _, _ = opened(browser, written, 390)
    inner, outer = page.locator(".scroll").first.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert inner > outer
    page.close()


def test_a_click_on_the_legend_leaves_one_curve(browser, written):
    page, told, _ = opened(browser, written, 1200)
    lines = page.locator(".chart").first.locator("svg .mark-line path")
    dims = "paths => paths.filter(path => parseFloat(path.getAttribute('opacity') ?? '1') < 0.5).length"
    before = lines.evaluate_all(dims)
    page.locator(".chart").first.locator("svg .role-legend-label text", has_text="ridge").click()
    page.wait_for_function(
        "before => [...document.querySelector('.chart').querySelectorAll('svg .mark-line path')]"
        ".filter(path => parseFloat(path.getAttribute('opacity') ?? '1') < 0.5).length > before",
        arg=before,
    )
    assert before == 0 and lines.evaluate_all(dims) == 4
    assert told == []
    page.close()


def test_a_chart_that_cannot_be_drawn_says_so(browser, written):
    broken = written.read_text().replace(
        '"$schema": "https://vega.github.io/schema/vega-lite/', '"mark": {"type": 7}, "$schema": "no://', 1
    )
    assert broken != written.read_text()
    path = written.with_name("broken.html")
    path.write_text(broken)
    page, told, _ = opened(browser, path, 1200)
    assert page.locator(".failure").count() == 1 and told
    assert "could not be drawn" in page.locator(".failure").inner_text()
    assert page.locator(".chart[data-drawn]").count() == 2
    page.close()


def test_empty_tables_do_no_harm(browser, tmp_path):
    path = tmp_path / "empty.html"
    write_page(path, tmp_path / "figures", "Nothing yet", "", (), (), [("Numbers", pd.DataFrame({"a": []}))])
    page, told, asked = opened(browser, path, 390)
    assert (told, asked) == ([], [])
    page.close()
