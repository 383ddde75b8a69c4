"""A run in a few plain sentences, worked out from its table of evaluations."""

from __future__ import annotations

import pandas as pd

from inlearn.charts import tables
from inlearn.charts.theme import readable

TIE = 2.0  # two distances are told apart when they differ by more than this many standard errors


def reading(table: pd.DataFrame, set: str) -> str:
    """Which reference learner the model was nearest to, from its first checkpoint to its last, and its loss.

    `table` is one run's. Between the ends stand the steps from which another learner was nearest; where there are
    none, or too many for a sentence, the checkpoint half way in log(1 + step).
    """
    loss = tables.evaluated(table, "loss", set).sort_values("step")
    if loss.empty:
        return f"This run has no evaluation on set '{set}' yet."
    distances = tables.evaluated(table, "distance", set)
    if distances.empty:
        return _losses(table, loss, set)
    first, *middle, last = [loss["step"].min(), *_turns(distances), loss["step"].max()]
    if not 1 <= len(middle) <= 3:
        middle = tables.chosen_steps(loss["step"].tolist(), 3)[1:-1]
    near = {int(step): _nearest(here) for step, here in distances.groupby("step")}
    sentences = [f"At step {first:,} the model is {near[int(first)]}."]
    sentences += [
        f"At step {step:,} it is {near[int(step)]}." for step in dict.fromkeys((*middle, last)) if step > first
    ]
    return " ".join([*sentences, _losses(table, loss, set)])


def _ranked(here: pd.DataFrame) -> list[tuple[str, float, float]]:
    """(learner, distance, standard error) at one step, the nearest first."""
    ranked = here.sort_values(["mean", "reference"])
    return list(zip(ranked["reference"], ranked["mean"], ranked["se"].fillna(0.0), strict=True))


def _alike(first: tuple[str, float, float], other: tuple[str, float, float]) -> bool:
    return other[1] - first[1] <= TIE * (first[2] ** 2 + other[2] ** 2) ** 0.5


def _nearest(here: pd.DataFrame) -> str:
    """E.g. "nearest to ridge (distance 0.12; zero 3.9)", or that two or more are equally near."""
    ranked = _ranked(here)
    near = [each for each in ranked if _alike(ranked[0], each)]
    rest = [each for each in ranked if each not in near]
    names = " and ".join(f"{readable(name)} ({distance:.3g})" for name, distance, _ in near)
    away = ", ".join(f"{readable(name)} {distance:.3g}" for name, distance, _ in rest)
    text = f"about equally near to {names}" if len(near) > 1 else f"nearest to {readable(near[0][0])}"
    numbers = [] if len(near) > 1 else [f"distance {near[0][1]:.3g}"]
    numbers += [f"next: {away}" if len(near) == 1 else f"further: {away}"] if away else []
    return f"{text} ({'; '.join(numbers)})" if numbers else text


def _turns(distances: pd.DataFrame) -> list[int]:
    """The steps from which another learner than before is the nearest, ties left out."""
    turns: list[tuple[int, str]] = []
    for step, here in distances.groupby("step", sort=True):
        ranked = _ranked(here)
        if len(ranked) > 1 and _alike(ranked[0], ranked[1]):
            continue
        if not turns or turns[-1][1] != ranked[0][0]:
            turns.append((int(step), ranked[0][0]))
    return [step for step, _ in turns[1:]]


def _losses(table: pd.DataFrame, loss: pd.DataFrame, set: str) -> str:
    first, last = loss.iloc[0], loss.iloc[-1]
    own = tables.floors(tables.evaluated(table, "loss", set, learner=None)).sort_values("value", kind="stable")
    floors = ", ".join(f"{readable(name)} {value:.4g}" for name, value in own.itertuples(index=False))
    against = f" The reference learners' own losses: {floors}." if floors else ""
    if first["step"] == last["step"]:
        return f"Its loss on set '{set}' is {last['mean']:.4g} ({last['unit']}).{against}"
    return (
        f"Its loss on set '{set}' goes from {first['mean']:.4g} to {last['mean']:.4g} ({last['unit']}) "
        f"by step {int(last['step']):,}.{against}"
    )
