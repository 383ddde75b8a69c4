from __future__ import annotations

import math
import re

import pytest

from inlearn.reports.texts import escaped, interval, latex, markdown, to_precision


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (1.23456, 0.0123, "1.235"),
        (1.23456, 0.123, "1.23"),
        (1.23456, 1.23, "1.2"),
        (-0.000123456, 0.0000123, "-0.000123"),
        (123456.0, 12.0, "123456"),
        (123456.0, 1234.0, "123500"),
        (0.5, math.nan, "0.5"),
        (1.23456, 0.0, "1.235"),
        (math.nan, 1.0, "–"),
        (None, 1.0, "–"),
        (0.1158961234, 8e-9, "0.115896"),
        (0.0, 1.0, "0.0"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_supports(value, half, text):
    assert to_precision(value, half) == text


def test_intervals():
    assert interval(1.2, 1.3) == "[1.200, 1.300]" and interval(math.nan, math.nan) == "–"


def test_markdown_escapes_bars():
    assert markdown(["a|b", "c"], [["1", "x|y"]]) == "| a\\|b | c |\n| --- | --- |\n| 1 | x\\|y |"


def test_latex_is_whole_and_leaves_no_special_character():
    text = latex(
        ["task.noise_variance", "95 % interval"],
        [["-1.5", "[-0.3, 2]"], ["–", "50 % & more #1 {x} a^2 ~ \\"]],
        "p_1: 4 - 1",
    )
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if "&" in line]
    assert len(rows) == 3 and all(line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == 1 for line in rows)
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert r"task.noise\_variance" in text and "$-$1.5 & {[}$-$0.3, 2{]}" in text and r"p\_1: 4 - 1" in text
    assert r"\begin{tabular}{rl}" in text


def test_a_minus_is_a_minus_and_a_hyphen_stays():
    assert escaped("-3 to -2, x-1, 2026-11-21, 1e-05") == "$-$3 to $-$2, x-1, 2026-11-21, 1e-05"
