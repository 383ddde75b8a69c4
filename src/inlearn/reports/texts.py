"""Tables as text for a paper: Markdown and LaTeX, numbers at the precision that their interval supports."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pandas as pd

MISSING = "–"


def to_precision(value: float, half: float) -> str:
    """`value` to the second digit of `half`, half the width of its interval; four significant digits without one.

    At most six digits where the interval is narrower than a millionth.
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if not math.isfinite(half) or half <= 0 or half < abs(value) * 1e-12:
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(half))
    if not -2 <= decimals <= 6:
        digits = decimals + math.floor(math.log10(abs(value) or half)) + 1
        return f"{value:.{min(max(digits, 1), 6)}g}"
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def interval(low: float, high: float) -> str:
    half = (high - low) / 2
    return f"[{to_precision(low, half)}, {to_precision(high, half)}]" if math.isfinite(half) else MISSING


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def latex(columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A `table` with booktabs' rules. Needs \\usepackage{booktabs}; every special character is escaped."""
    body = [" & ".join(map(escaped, line)) + r" \\" for line in (columns, *rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escaped(caption)}}}",
            rf"\begin{{tabular}}{{{''.join(_aligned(rows, place) for place in range(len(columns)))}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_SPECIAL |= {char: f"\\{char}" for char in "&%$#_{}"}
# A bracket after a row's end, or in a caption, would be read as an optional argument.
_SPECIAL |= {
    MISSING: "--",
    "−": "$-$",
    "∞": r"$\infty$",
    "²": "$^2$",
    "[": "{[}",
    "]": "{]}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
}


def escaped(text: str) -> str:
    """`text` as LaTeX that prints it; the minus of a number is a minus, not a hyphen."""
    signed = re.sub(r"(?<![\w.-])-(?=\d)", "−", text)
    return "".join(_SPECIAL.get(char, char) for char in signed)


def _aligned(rows: Sequence[Sequence[str]], place: int) -> str:
    return "r" if all(re.fullmatch(r"[-+]?[\d.,e+-]+|–|inf", row[place]) for row in rows) else "l"


def plain(value: object) -> str:
    """An axis' level, a name or a count as a cell."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
