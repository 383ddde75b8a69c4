"""The published probe: the model frozen, its head replaced by a new linear one that learns the same task again.

It says whether the last layer's output still holds the answer, which a trained model's own head shows already; it is
here so that published numbers can be compared. The model is in evaluation mode: nothing is dropped from what is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.analysis.probe.config import ProbeConfig
from inlearn.analysis.probe.features import at_scored
from inlearn.analysis.probe.rows import Parts
from inlearn.analysis.probe.targets import FixedSeed
from inlearn.analysis.results import Result
from inlearn.analysis.subject import Subject
from inlearn.core import draws
from inlearn.core.batch import Batch
from inlearn.core.draws import Address
from inlearn.core.errors import UserError
from inlearn.core.spaces import Tokens

FINAL = "final"


def replaced(
    config: ProbeConfig, subject: Subject, batch: Batch, parts: Parts, together: int, facts: dict[str, Any]
) -> Result:
    """Accuracy and loss of the new head after every epoch; the last one is judged on the rows for judging."""
    space = subject.study.tasks[facts["set"]].interface.outputs
    if not isinstance(space, Tokens):
        raise UserError("head_replacement = true: answers are numbers here; expected a study that answers with symbols")
    width = subject.model.head.weight.shape[1]
    x = at_scored(subject.model, batch, together, {FINAL: width}, subject.device, subject.precision)[FINAL]
    y, rows = batch.at_scored(batch.targets), batch.scored_rows
    new = _head(width, space.among or space.size, config.seed)
    update = torch.optim.AdamW(new.parameters(), config.rate, weight_decay=config.weight_decay)
    starts = torch.searchsorted(rows, torch.arange(batch.rows + 1))
    curve = [_judged(new, x, y, parts.slices[1])]
    for epoch in range(config.epochs):
        order = draws.permutation(Address(FixedSeed(config.seed), "probe/eval", epoch).key("order"), parts.rows[0])
        for chosen in order.split(config.batch):
            where = torch.cat([torch.arange(starts[row], starts[row + 1]) for row in chosen.tolist()])
            if not len(where):
                continue
            update.zero_grad()
            F.cross_entropy(new(x[where]), y[where]).backward()
            update.step()
        curve.append(_judged(new, x, y, parts.slices[1]))
    accuracy, loss = _judged(new, x, y, parts.slices[2])
    own = sum(p.numel() for p in subject.model.head.parameters())
    counts = {
        "backbone": sum(p.numel() for p in subject.model.parameters()) - own,
        "new head": sum(p.numel() for p in new.parameters()),
    }
    arrays = {"accuracy": [a for a, _ in curve], "loss": [b for _, b in curve]}
    final = {"best_validation_accuracy": max(arrays["accuracy"]), "test_accuracy": accuracy, "test_loss": loss}
    return Result(
        {name: np.array(values, dtype=np.float64) for name, values in arrays.items()},
        {name: ["epoch"] for name in arrays},
        {"epoch": list(range(config.epochs + 1))},
        {**facts, **final, "parameters": counts},
    )


def _head(width: int, outputs: int, seed: int) -> nn.Linear:
    """With torch's own law of initial weights, drawn where our draws come from."""
    new = nn.Linear(width, outputs)
    key = Address(FixedSeed(seed), "probe/eval").key
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            drawn = draws.uniform(key(name), len(parameter), tuple(parameter.shape[1:]))
            parameter.copy_((drawn * 2 - 1) * width**-0.5)
    return new


def _judged(new: nn.Linear, x: Tensor, y: Tensor, part: slice) -> tuple[float, float]:
    """Accuracy, and loss in nats."""
    with torch.no_grad():
        outputs = new(x[part])
        return float((outputs.argmax(-1) == y[part]).double().mean()), float(F.cross_entropy(outputs, y[part]))


def tables(result: Result) -> Iterable[tuple[str, Sequence[str], list[tuple[Any, ...]]]]:
    facts = result.facts
    rows = [("best accuracy on rows for choosing", facts["best_validation_accuracy"])]
    rows += [("accuracy on rows for judging", facts["test_accuracy"])]
    rows += [("loss there (nats)", facts["test_loss"])]
    rows += [(f"parameters: {name}", count) for name, count in facts["parameters"].items()]
    yield f"a new head on the frozen model, set '{facts['set']}', {facts['rows']:,} rows", ("what", "value"), rows


def figures(result: Result) -> Iterable[tuple[str, str, Any]]:
    import pandas as pd

    from inlearn.charts.claims import series_over_x

    epochs = result.labels["epoch"]
    points = pd.DataFrame({"series": "new head", "x": epochs, "y": result.arrays["accuracy"], "run": ""})
    yield (
        "A new head on the frozen model",
        "Accuracy on rows that the head is not trained on, after each epoch.",
        series_over_x(points, "epoch", "accuracy (fraction)", False, False, ""),
    )
