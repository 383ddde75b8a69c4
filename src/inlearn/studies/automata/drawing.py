"""A machine as a picture: its states on a circle, an arrow for every step; and the walks that a row shows of it.

Everything is named by the symbols that the row shows: states by their number, actions by letters in their order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import altair as alt
import pandas as pd

from inlearn.charts import theme
from inlearn.studies.automata.config import MAX_ACTIONS, MAX_STATES
from inlearn.studies.automata.episodes import Episodes

LETTERS = "abcdefghijklmnop"[:MAX_ACTIONS]
NODE = 0.15  # radius of a state's disc; the circle of states has radius 1
BOW = 0.08  # how far an arrow between two states bows to its right, so that there and back are apart
NAMED = 0.3  # of an arrow's way stand its letters: in the middle many arrows cross
REACH = 1.5  # of the axes
SIZE = 460  # pixels
SHOWN = 48  # steps of a walk that are drawn

Point = tuple[float, float]


def drawn(episodes: Episodes, row: int = 0) -> Iterable[tuple[str, alt.LayerChart]]:
    """(title, chart) of one row: the machine, then its walks."""
    yield "A machine", machine(episodes, row)
    yield "What the row shows of it", walks(episodes, row)


def machine(episodes: Episodes, row: int = 0) -> alt.LayerChart:
    """Row `row`'s machine. A letter on an arrow is an action; what is doubly ringed no action leaves."""
    table, symbols = episodes.table[row].tolist(), episodes.state_symbols[row].tolist()
    letters = [LETTERS[symbol - MAX_STATES] for symbol in episodes.action_symbols[row].tolist()]
    places = [_on_circle(state, len(table)) for state in range(len(table))]
    edges: dict[tuple[int, int], list[str]] = {}
    for state, following in enumerate(table):
        for action, to in enumerate(following):
            if to >= 0:
                edges.setdefault((state, to), []).append(letters[action])
    lines, heads, names = [], [], []
    for (state, to), actions in edges.items():
        path, angle = _loop(places[state]) if state == to else _arrow(places[state], places[to])
        edge = f"{state} to {to}"
        lines += [{"edge": edge, "order": i, "x": x, "y": y} for i, (x, y) in enumerate(path)]
        heads.append({"x": path[-1][0], "y": path[-1][1], "angle": angle})
        at = _beyond(path[round((0.5 if state == to else NAMED) * len(path))], places[state], places[to])
        names.append({"x": at[0], "y": at[1], "text": " ".join(sorted(actions))})
    stuck = [all(to in (state, -1) for to in following) for state, following in enumerate(table)]
    nodes = [
        {"x": x, "y": y, "state": str(symbols[state]), "ring": stuck[state]} for state, (x, y) in enumerate(places)
    ]
    x, y = (
        alt.X("x:Q", axis=None, scale=alt.Scale(domain=[-REACH, REACH], nice=False)),
        alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-REACH, REACH], nice=False)),
    )
    disc = (2 * NODE * SIZE / (2 * REACH)) ** 2
    circles, texts = alt.Chart(pd.DataFrame(nodes)), alt.Chart(pd.DataFrame(names))
    layers = [
        alt.Chart(pd.DataFrame(lines)).mark_line(color=theme.GREY, strokeWidth=1.5)
        .encode(x, y, detail="edge:N", order="order:O"),
        alt.Chart(pd.DataFrame(heads)).mark_point(shape="triangle", filled=True, size=70, color=theme.GREY, opacity=1)
        .encode(x, y, angle=alt.Angle("angle:Q", scale=None)),
        circles.mark_point(size=disc, fill="#ffffff", stroke=theme.BLACK, strokeWidth=1.5, opacity=1).encode(x, y),
        circles.transform_filter("datum.ring")
        .mark_point(size=0.7 * disc, stroke=theme.BLACK, strokeWidth=1.5, opacity=1)
        .encode(x, y),
        circles.mark_text(fontSize=15).encode(x, y, text="state:N"),
        # White around the letters, so that an arrow which passes behind does not cross them out.
        texts.mark_text(fontSize=13, stroke="#ffffff", strokeWidth=4, strokeJoin="round").encode(x, y, text="text:N"),
        texts.mark_text(fontSize=13, color=theme.COLOURS[0]).encode(x, y, text="text:N"),
    ]  # fmt: skip
    chart = theme.dress(alt.layer(*layers).configure_view(strokeWidth=0))
    return chart.properties(width=SIZE, height=SIZE, autosize=alt.AutoSizeParams(type="pad"))


def walks(episodes: Episodes, row: int = 0) -> alt.LayerChart:
    """Row `row`'s demonstrations and its query, a cell a step: the state, and the action that is then taken."""
    symbols, actions = episodes.state_symbols[row].tolist(), episodes.action_symbols[row].tolist()
    every = [
        (f"demonstration {d + 1}", episodes.demo_states[row, d], episodes.demo_actions[row, d], length)
        for d, length in enumerate(episodes.demo_lengths[row].tolist())
    ]
    every.append(("query", episodes.query_states[row], episodes.query_actions[row], int(episodes.query_lengths[row])))
    cells, order = [], []
    for name, states, taken, length in every:
        # A long walk goes on in further lines.
        for first in range(0, length + 1, SHOWN):
            line = name if first == 0 else f"{name}, from step {first}"
            order.append(line)
            for step in range(first, min(first + SHOWN, length + 1)):
                after = LETTERS[actions[int(taken[step])] - MAX_STATES] if step < length else ""
                cells.append({"walk": line, "step": step - first, "state": symbols[int(states[step])], "action": after})
    palette = [*theme.COLOURS, "#999999", "#F0E442"]
    base = alt.Chart(pd.DataFrame(cells)).encode(
        alt.X("step:O", axis=None),
        alt.Y("walk:N", sort=order, title=None, axis=alt.Axis(labelLimit=220, domain=False, ticks=False)),
    )
    colour = alt.Color(
        "state:O", title="state", scale=alt.Scale(domain=list(range(MAX_STATES)), range=palette), legend=None
    )
    tip = [alt.Tooltip("state:O"), alt.Tooltip("action:N", title="then")]
    layers = [
        base.mark_rect(opacity=0.45).encode(colour, tooltip=tip),
        base.mark_text(dy=-5, fontSize=9).encode(text="state:O"),
        base.mark_text(dy=6, fontSize=9, color="#333333").encode(text="action:N"),
    ]
    return theme.dress(alt.layer(*layers)).properties(height=26 * len(order))


# ---------------------------------------------------------------- geometry


def _on_circle(place: int, count: int) -> Point:
    """Clockwise from the top."""
    turn = 2 * math.pi * place / count
    return math.sin(turn), math.cos(turn)


def _arrow(start: Point, end: Point, pieces: int = 24) -> tuple[list[Point], float]:
    """A bowed line from disc to disc, and which way its head points: degrees clockwise from up."""
    (x0, y0), (x1, y1) = start, end
    dx, dy, size = x1 - x0, y1 - y0, math.dist(start, end)
    bow = (x0 + x1) / 2 + 2 * BOW * dy / size, (y0 + y1) / 2 - 2 * BOW * dx / size
    curve = [
        tuple((1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c for a, b, c in zip(start, bow, end, strict=True))
        for t in (i / pieces for i in range(pieces + 1))
    ]
    free = [point for point in curve if math.dist(point, start) > NODE and math.dist(point, end) > 1.25 * NODE]
    (xa, ya), (xb, yb) = free[-2:]
    return free, math.degrees(math.atan2(xb - xa, yb - ya))


def _loop(place: Point, pieces: int = 24) -> tuple[list[Point], float]:
    """A circle that leaves a state outwards and comes back to it."""
    radius = 0.85 * NODE
    centre = tuple((1 + 1.4 * NODE) * x for x in place)
    inward = math.atan2(-place[1], -place[0])
    opening = 1.0
    turns = [inward + opening + i / pieces * (2 * math.pi - 2 * opening) for i in range(pieces + 1)]
    path = [(centre[0] + radius * math.cos(turn), centre[1] + radius * math.sin(turn)) for turn in turns]
    (xa, ya), (xb, yb) = path[-2:]
    return path, math.degrees(math.atan2(xb - xa, yb - ya))


def _beyond(middle: Point, start: Point, end: Point) -> Point:
    """Where an arrow's letters stand: a little to the side to which it bows; a loop's outside it."""
    if start == end:
        size = math.hypot(*middle)
        return middle[0] * (1 + 0.13 / size), middle[1] * (1 + 0.13 / size)
    dx, dy = end[0] - start[0], end[1] - start[1]
    size = math.hypot(dx, dy)
    return middle[0] + 0.06 * dy / size, middle[1] - 0.06 * dx / size
