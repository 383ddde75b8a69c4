"""How every chart looks: colours that colour-blind readers can tell apart, dashes as a second channel, sizes, fonts.

Colours are those of Okabe and Ito (2008) without black, which is the model's, and without yellow, which is too pale
for a line on white.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

# Metric-compatible faces: text takes the same room in the SVG made here and in a reader's browser.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
HEIGHT = 300  # pixels of the plot; the width follows the page
PRINT_WIDTH = 640  # pixels of the plot in the SVG files
PHONE_WIDTH = 300  # pixels that a legend may take: a phone's 390 less the margins and the axis


@dataclass(frozen=True)
class Style:
    """A line's colour and its dash pattern in pixels (drawn, left out, ...); an empty pattern is a solid line."""

    colour: str
    dash: tuple[int, ...] = ()


BLACK, GREY, PALE = "#000000", "#767676", "#b4b4b4"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
BOUND = (1, 3)
DASHES = ((10, 4), (5, 3), (12, 3, 3, 3), (7, 2), (3, 3), (12, 3, 3, 3, 3, 3))

# Learners that appear in many studies keep their looks everywhere; only the model is solid.
LEARNERS = {
    "model": Style(BLACK),
    "zero": Style(GREY, (2, 3)),
    "ridge": Style(COLOURS[0], DASHES[0]),
    "dmmse": Style(COLOURS[1], DASHES[1]),
    "task_mean": Style(COLOURS[2], DASHES[2]),
    "first_example": Style(COLOURS[3], DASHES[3]),
}


def learner_styles(names: Iterable[str]) -> dict[str, Style]:
    """The style of every learner in `names`, no two alike up to 30 that are not in `LEARNERS`.

    An unlisted learner starts from the slot its name hashes to, so that it mostly looks the same in every chart,
    and moves on where a colour is taken; where all are, it shares one and has another dash.
    """
    names = list(dict.fromkeys(names))
    styles = {name: LEARNERS[name] for name in names if name in LEARNERS}
    taken = Counter(style.colour for style in styles.values())
    for name in names:
        if name in styles:
            continue
        first = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
        slots = [(first + step) % len(COLOURS) for step in range(len(COLOURS))]
        slot = min(slots, key=lambda slot: taken[COLOURS[slot]])
        looks = [Style(COLOURS[slot], DASHES[(slot + step) % len(DASHES)]) for step in range(len(DASHES))]
        styles[name] = next((look for look in looks if look not in styles.values()), looks[0])
        taken[COLOURS[slot]] += 1
    return {name: styles[name] for name in names}


def series_styles(names: Sequence[str]) -> dict[str, Style]:
    """Styles for a list of curves that are no learners (gains, runs): the first solid, then colours and dashes.

    There are six colours and seven dashes, and these numbers share no factor, so up to 42 curves differ.
    """
    dashes = ((), *DASHES)
    return {name: Style(COLOURS[i % len(COLOURS)], dashes[i % len(dashes)]) for i, name in enumerate(names)}


def shades(names: Sequence[str]) -> dict[str, Style]:
    """The model at successive steps: solid greys that darken to the model's black."""
    last = max(len(names) - 1, 1)
    levels = [round(200 * (1 - i / last)) if len(names) > 1 else 0 for i in range(len(names))]
    return {name: Style(f"#{level:02x}{level:02x}{level:02x}") for name, level in zip(names, levels, strict=True)}


def readable(name: str) -> str:
    """A name of ours as prose: `task_mean` becomes `task mean`."""
    return name.replace("_", " ")


# Bands, discs and text take their fill from a column of colours, which leaves the legend's entries lines.
FILL = alt.Fill("colour:N", scale=None)


def coloured(table: pd.DataFrame, styles: Mapping[str, Style]) -> pd.DataFrame:
    """`table` with the column that `FILL` reads, from its column `series`."""
    return table.assign(colour=[styles[name].colour for name in table["series"]])


def line_encodings(styles: Mapping[str, Style], title: str | None) -> tuple[alt.Stroke, alt.StrokeDash]:
    """Colour and dash of the field `series`, under one legend whose columns fit the narrowest page."""
    names = list(styles)
    widest = max((len(name) for name in names), default=1) * 6 + 46
    columns = max(1, math.floor(PHONE_WIDTH / widest))
    legend = alt.Legend(title=title, orient="top", columns=columns, symbolSize=700, symbolType="stroke")
    dashes = [list(style.dash) or [1, 0] for style in styles.values()]
    colours = alt.Scale(domain=names, range=[style.colour for style in styles.values()])
    return (
        alt.Stroke("series:N", legend=legend, scale=colours),
        alt.StrokeDash("series:N", legend=legend, scale=alt.Scale(domain=names, range=dashes)),
    )


def dress(chart: alt.LayerChart | alt.Chart) -> alt.LayerChart | alt.Chart:
    """Give a finished chart the house's sizes and fonts; it then fills the width of whatever holds it."""
    text = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    axis = {**text, "gridColor": "#e9e9e9", "domainColor": "#888888", "tickColor": "#888888", "labelColor": "#333333"}
    return (
        chart.properties(width="container", height=HEIGHT)
        .configure(background="#ffffff", font=FONT, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))
        .configure_view(stroke=None)
        .configure_axis(**axis, titlePadding=8)
        .configure_legend(**text, symbolStrokeWidth=2.5, labelLimit=PHONE_WIDTH, columnPadding=14)
        .configure_line(strokeWidth=2, strokeJoin="round")
        .configure_text(font=FONT, fontSize=12)
    )
