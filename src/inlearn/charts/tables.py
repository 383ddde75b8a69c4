"""The curves of a chart, cut out of the long table of evaluations.

The table has one row a number: run, step (missing for a reference learner's own lines), set, learner, measure,
reference, unit, by (the slicing marks joined by ","), level (a tuple of ints), mean, se, n.
A curve table has the columns step or a mark, `mean`, `low`, `high`, and what tells the curves apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

NORMAL_95 = float(stats.norm.ppf(0.975))


def evaluated(
    table: pd.DataFrame, measure: str, set: str, by: Sequence[str] = (), learner: str | None = "model"
) -> pd.DataFrame:
    """Rows of one measure on one set, sliced by the marks `by`, with one int column a mark.

    `learner=None` gives the reference learners' own rows. May be empty.
    """
    learners = table["learner"] != "model" if learner is None else table["learner"] == learner
    chosen = (table["measure"] == measure) & (table["set"] == set) & (table["by"] == ",".join(by)) & learners
    rows = table[chosen].reset_index(drop=True)
    for place, mark in enumerate(by):
        rows[mark] = [int(level[place]) for level in rows["level"]]
    return rows


def unit_of(rows: pd.DataFrame) -> str:
    """The unit all of `rows` share. ValueError where there are no rows, or where units are mixed."""
    units = rows["unit"].unique()
    if len(units) != 1:
        raise ValueError(f"one chart needs rows of one unit; these have {sorted(units) or 'no rows'}")
    return str(units[0])


def curves(rows: pd.DataFrame, along: str, apart: Sequence[str] = ()) -> pd.DataFrame:
    """Mean and 95 % interval along `along` (such as step), one curve for each value of the columns `apart`.

    One run: its mean ± 1.96 standard errors (no band where the error is unknown). Several runs: their mean and
    Student's t interval between runs, at the places that the largest number of runs share.
    """
    keys = [*apart, along]
    rows = rows.astype({along: "int64"})
    if rows["run"].nunique() <= 1:
        half = NORMAL_95 * rows["se"].astype(float)
        found = rows[keys].assign(mean=rows["mean"].astype(float), half=half)
    else:
        found = rows.groupby(keys, sort=True)["mean"].agg(["mean", "std", "count"]).reset_index()
        found = found[found["count"] == found["count"].max()]
        runs = found["count"].to_numpy()
        found["half"] = stats.t.ppf(0.975, np.maximum(runs - 1, 1)) * found["std"] / np.sqrt(runs)
    found["low"], found["high"] = found["mean"] - found["half"], found["mean"] + found["half"]
    return found.sort_values(keys)[[*keys, "mean", "low", "high"]].reset_index(drop=True)


def floors(rows: pd.DataFrame, apart: Sequence[str] = ("learner",)) -> pd.DataFrame:
    """A reference learner's own values, averaged over the runs: the columns `apart` and `value`."""
    return rows.groupby(list(apart), sort=False)["mean"].mean().rename("value").reset_index()


def training_curve(training: pd.DataFrame, places: int = 200) -> pd.DataFrame:
    """Training loss averaged in at most `places` bins of equal width in log(step), as a curve without a band.

    A run's every batch would make the page heavy and the line a smear.
    """
    losses = training[["step", "loss"]].dropna().astype({"step": "int64", "loss": "float64"})
    bins = (
        pd.cut(np.log1p(losses["step"]), places, labels=False) if losses["step"].nunique() > places else losses["step"]
    )
    binned = losses.groupby(np.asarray(bins)).agg(step=("step", "median"), mean=("loss", "mean"))
    return binned.reset_index(drop=True).assign(low=np.nan, high=np.nan)


def chosen_steps(steps: Sequence[int], count: int = 5) -> list[int]:
    """About `count` of the `steps` there are, spread evenly in log(1 + step), the first and the last among them."""
    known = np.unique(np.asarray(steps, dtype="int64"))
    if len(known) <= count:
        return known.tolist()
    places = np.log1p(known)
    wanted = np.linspace(places[0], places[-1], count)
    return sorted({int(known[np.abs(places - place).argmin()]) for place in wanted})
