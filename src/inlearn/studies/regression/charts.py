"""What a report on a regression run shows beside the pictures that every study has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import altair as alt
import pandas as pd

from inlearn.charts import positions, tables, training

SPAN = re.compile(r"icl_(\d+)_(\d+)")
GAIN_SETS = {"input_gains": "inputs", "task_gains": "task vectors"}

Labels = Mapping[str, Mapping[str, Sequence[float | str]]]
Figure = tuple[str, str, alt.LayerChart]


def charts(evaluations: pd.DataFrame, labels: Labels) -> list[Figure]:
    """(title, caption, chart) in reading order; what the table has no numbers for is left out.

    `evaluations` is the long table of one run or of several that differ in their seeds; `labels` is {set: {mark:
    labels of its levels}} as in study.json.
    """
    found: list[Figure] = []
    for name in ("heldout", "gaussian"):
        if not tables.evaluated(evaluations, "loss", name, ("position",)).empty:
            found.append(_per_position(evaluations, name))
    spans = _spans(evaluations)
    if spans:
        found.append(_scores(evaluations, spans))
    if not tables.evaluated(evaluations, "prediction_norm", "train").empty:
        found.append(_prediction_norm(evaluations))
    for name, what in GAIN_SETS.items():
        if not tables.evaluated(evaluations, "loss", name, ("gain",)).empty:
            found += _gains(evaluations, name, what, {(i,): f"gain {g:g}" for i, g in enumerate(labels[name]["gain"])})
    return found


def _per_position(evaluations: pd.DataFrame, name: str) -> Figure:
    where = {
        "heldout": "new sequences of the training distribution",
        "gaussian": "tasks drawn afresh from the Gaussian prior, which training never showed",
    }[name]
    return (
        f"Loss at each context position, {name}",
        f"As above, on {where}: the model at a few steps against ridge, the prior's ideal, and the answer 0.",
        positions.loss_per_position(evaluations, name, references=("ridge", "dmmse", "zero")),
    )


def _spans(evaluations: pd.DataFrame) -> dict[str, str]:
    """{measure: label} of the in-context scores there are, e.g. {"icl_1_4": "examples 1 to 4"}."""
    rows = evaluations[(evaluations["set"] == "train") & (evaluations["learner"] == "model")]
    matches = [found for name in rows["measure"].unique() if (found := SPAN.fullmatch(name))]
    matches.sort(key=lambda found: (int(found[2]), int(found[1])))
    return {found[0]: f"examples {found[1]} to {found[2]}" for found in matches}


def _scores(evaluations: pd.DataFrame, spans: Mapping[str, str]) -> Figure:
    return (
        "In-context learning scores",
        "How much the loss falls from an early example of a sequence to a later one, on set 'train'. Zero: the "
        "context does not help. Dotted lines: the scores of ridge.",
        training.measures_over_training(evaluations, spans, "train", "later loss minus earlier", "ridge"),
    )


def _prediction_norm(evaluations: pd.DataFrame) -> Figure:
    return (
        "Prediction norm",
        "The mean square of the model's answers on set 'train', which is also its distance to answering 0.",
        training.measure_over_training(
            evaluations, "prediction_norm", "train", references=("ridge", "dmmse"), title="mean square of answers"
        ),
    )


def _gains(evaluations: pd.DataFrame, name: str, what: str, labels: Mapping[tuple[int, ...], str]) -> Iterator[Figure]:
    yield (
        f"Loss with {what} scaled up",
        f"Out of distribution: training tasks whose {what} are multiplied by a gain g. Dotted lines: ridge's loss.",
        training.measure_over_training(evaluations, "loss", name, ("gain",), labels, ("ridge",)),
    )
    if tables.evaluated(evaluations, "loss_scaled", name, ("gain",)).empty:
        return
    yield (
        f"Loss over gain², {what}",
        "The same divided by g². A learner that scales with its input would have the same curve at every gain, but "
        "for the label noise. Dotted lines: ridge.",
        training.measure_over_training(
            evaluations, "loss_scaled", name, ("gain",), labels, ("ridge",), title="loss over gain²"
        ),
    )
