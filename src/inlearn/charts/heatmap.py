"""Numbers of two kinds of things as a grid of colours, in blocks side by side."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from inlearn.charts import theme

ROW, FRAME = 24, 40  # pixels of a row of cells; at the least, of a grid
LEGIBLE = 32  # columns whose numbers can be read at the width of a printed page; of more, colours are shown alone


def heat_map(cells: pd.DataFrame, blocks: Sequence[str], value: str, domain: tuple[float, float]) -> alt.LayerChart:
    """`cells` has the columns block, across, down, value, note; each block's columns stand together, in order.

    `value` names the numbers; colours reach over `domain`, numbers beyond it have its ends'. ValueError where there is
    nothing to draw.
    """
    if cells.empty:
        raise ValueError("nothing to draw: the heat map has no cells")
    cells = cells.assign(column=cells["block"] + "|" + cells["across"])
    order: list[str] = []
    for number, block in enumerate(blocks):
        own = cells[cells["block"] == block]["column"]
        order += [f"{number}|", *dict.fromkeys(own)] if order and len(own) else list(dict.fromkeys(own))
    down = list(dict.fromkeys(cells["down"]))
    label = "slice(datum.label, indexof(datum.label, '|') + 1)"
    x = alt.X(
        "column:N",
        title=None,
        scale=alt.Scale(domain=order, padding=0.04),
        axis=alt.Axis(labelExpr=label, labelAngle=-60, labelLimit=200, ticks=False, domain=False, grid=False),
    )
    y = alt.Y("down:N", title=None, scale=alt.Scale(domain=down, padding=0.04),
              axis=alt.Axis(ticks=False, domain=False, grid=False, labelLimit=220))  # fmt: skip
    scale = alt.Scale(scheme="viridis", domain=list(domain), clamp=True)
    legend = alt.Legend(title=value, orient="bottom", gradientLength=220)
    tip = [
        alt.Tooltip("block:N", title="network"),
        alt.Tooltip("across:N", title="activation"),
        alt.Tooltip("down:N", title="target"),
        alt.Tooltip("value:Q", title=value, format=".4f"),
        alt.Tooltip("note:N", title="95 % interval"),
    ]
    rounded = cells.assign(text=[f"{number:.2f}".removeprefix("0") for number in cells["value"]])
    middle = sum(domain) / 2
    ink = alt.condition(alt.datum.value > middle, alt.value("#000000"), alt.value("#ffffff"))
    shown = alt.Chart(rounded)
    grid = shown.mark_rect().encode(x, y, alt.Color("value:Q", scale=scale, legend=legend), tooltip=tip)
    text = shown.mark_text(fontSize=10).encode(x, y, alt.Text("text:N"), color=ink)
    first = cells.drop_duplicates("block")[["block", "column"]]
    head = alt.Chart(first).mark_text(align="left", baseline="bottom", fontSize=12, dx=-10)
    head = head.encode(x, alt.Text("block:N"), y=alt.value(-6))
    layers = alt.layer(grid, text, head) if len(order) <= LEGIBLE else alt.layer(grid, head)
    return theme.dress(layers).properties(height=max(FRAME, ROW * len(down)))
