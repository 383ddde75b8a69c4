"""Every learner, trained or ideal, on every evaluation set, by every measure of the study.

Evaluation sets are drawn at a fixed address (stream `eval`, step 0), the same for every run, so comparisons between
checkpoints, seeds and architectures are paired. Small sets and the reference learners' predictions on them are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.contract import Batch, Measure, Study, Task
from inlearn.core.device import autocast
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.errors import unknown
from inlearn.evaluation.sums import Slices
from inlearn.models.forward import outputs_at_scored

Predict = Callable[[Batch], Tensor]
"""Predictions (n, width) at a batch's scored positions."""

POSITIONS = 1 << 15  # positions in one forward pass: more gain nothing and cost memory
PREDICTIONS = 1 << 24  # numbers in one chunk of predictions: 128 MiB in float64
KEPT = 1 << 26  # numbers of batches and reference predictions that stay in memory between evaluations


@dataclass(frozen=True)
class Chunk:
    batch: Batch
    references: Mapping[str, Tensor]


class Evaluator:
    """Evaluates learners on a study's sets. `sets` limits which exist here (default: all)."""

    def __init__(self, study: Study, seeds: StreamSeeds):
        self.study = study
        self.seeds = _Fixed(seeds.eval)
        self._kept: dict[str, list[Chunk]] = {}
        self._room = KEPT

    # ------------------------------------------------------------ evaluation sets

    def chunks(self, name: str) -> Iterator[Chunk]:
        if name in self._kept:
            yield from self._kept[name]
            return
        task, references = self.task(name), self.study.references(name)
        rows = self.study.evaluation_rows(name)
        at = Address(self.seeds, "eval")
        size = self._chunk_rows(name, task, rows)
        made: list[Chunk] | None = []
        for first in range(0, rows, size):
            batch = task.sample(at, min(size, rows - first), first)
            chunk = Chunk(batch, {r.name: r.predict(batch).double() for r in references})
            yield chunk
            self._room -= batch.inputs.numel() + sum(p.numel() for p in chunk.references.values())
            made = None if made is None or self._room < 0 else [*made, chunk]
        if made is not None:
            self._kept[name] = made

    def _chunk_rows(self, name: str, task: Task, rows: int) -> int:
        length, width = task.interface.length, task.interface.outputs.width
        together = self.study.rows_together(name)
        fitting = min(POSITIONS // length, PREDICTIONS // (length * width))
        return min(rows, max(1, fitting // together) * together)

    def task(self, name: str) -> Task:
        if name not in self.study.tasks:
            raise unknown("evaluation set", name, self.study.tasks)
        return self.study.tasks[name]

    # ------------------------------------------------------------ learners

    def learner(self, name: str, predict: Predict, sets: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Evaluation lines (common form, without a step) of one learner on the named sets (default: monitored)."""
        lines = []
        for set_ in self.study.monitored if sets is None else sets:
            lines += self._on_set(name, set_, lambda chunk: predict(chunk.batch))
        return lines

    def references(self, sets: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """The same lines for the ideal learners of each set: their floors, and their distances from each other."""
        lines = []
        for set_ in self.study.monitored if sets is None else sets:
            for reference in self.study.references(set_):
                lines += self._on_set(reference.name, set_, lambda chunk, key=reference.name: chunk.references[key])
        return lines

    def _on_set(self, learner: str, set_: str, predict: Callable[[Chunk], Tensor]) -> list[dict[str, Any]]:
        task = self.task(set_)
        space = task.interface.outputs
        measures = [m for m in self.study.measures if not m.sets or set_ in m.sets]
        loss = next((m for m in measures if m.name == "loss"), None)
        if loss is None:
            loss = Measure("loss", space.unit, "the training loss at scored positions", _loss)
            measures.insert(0, loss)
        table = _Table(learner, set_)
        for chunk in self.chunks(set_):
            prediction = predict(chunk).double()
            for measure in measures:
                table.add(measure, None, chunk.batch, measure.value(chunk.batch, space, prediction))
            for name, reference in chunk.references.items():
                distance = Measure("distance", space.unit, "", _loss, loss.by, cluster=loss.cluster)
                table.add(distance, name, chunk.batch, space.divergence(reference, prediction))
        lines = table.lines()
        return lines + _derived(self.study, lines)


def _loss(batch: Batch, space: Any, prediction: Tensor) -> Tensor:
    target = batch.at_scored(batch.targets)
    return space.loss(prediction, target if target.dtype == torch.int64 else target.double())


class _Table:
    """Slices of one learner on one set, by (measure, reference, marks)."""

    def __init__(self, learner: str, set_: str):
        self.learner, self.set_ = learner, set_
        self.slices: dict[tuple[str, str, str | None, tuple[str, ...]], Slices] = {}
        self.first_row = 0
        self.last_batch: Batch | None = None

    def add(self, measure: Measure, reference: str | None, batch: Batch, values: Tensor) -> None:
        if batch is not self.last_batch:
            self.first_row += self.last_batch.rows if self.last_batch is not None else 0
            self.last_batch = batch
        a_position = len(values) == len(batch.scored)
        if not a_position and len(values) != batch.rows:
            raise ValueError(
                f"measure {measure.name}: {len(values)} values for {len(batch.scored)} positions in {batch.rows} rows"
            )

        def column(mark: Tensor) -> Tensor:
            return batch.at_scored(mark) if a_position else mark

        rows = torch.arange(self.first_row, self.first_row + batch.rows)
        clusters = column(batch.marks[measure.cluster] if measure.cluster else rows)
        for by in ((), *measure.by):
            marks = [batch.marks[name] for name in by]
            if not a_position and any(mark.dim() > 1 for mark in marks):
                continue  # a number a row has no position to be sliced by
            key = (measure.name, measure.unit, reference, by)
            self.slices.setdefault(key, Slices()).add(values, clusters, [column(mark) for mark in marks])

    def lines(self) -> list[dict[str, Any]]:
        lines = []
        for (measure, unit, reference, by), slices in self.slices.items():
            levels, means, errors, counts = slices.table()
            lines.append(_line(self.set_, self.learner, measure, reference, unit, by, levels, means, errors, counts))
        return lines


def _line(
    set_: str,
    learner: str,
    measure: str,
    reference: str | None,
    unit: str,
    by: Sequence[str],
    levels: Sequence[Sequence[int]],
    means: Sequence[float],
    errors: Sequence[float | None],
    counts: Sequence[int],
) -> dict[str, Any]:
    def finite(values: Sequence[float | None]) -> list[float | None]:
        """JSON knows no infinity: a one-hot prediction that is wrong has no finite loss, and no number is kept."""
        return [value if value is not None and math.isfinite(value) else None for value in values]

    return {
        "event": "evaluation",
        "set": set_,
        "learner": learner,
        "measure": measure,
        "reference": reference,
        "unit": unit,
        "by": list(by),
        "at": [list(level) for level in levels],
        "mean": finite(means),
        "se": finite(errors),
        "n": list(counts),
    }


def _derived(study: Study, lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for derived in study.derived:
        source = (
            x for x in lines if x["measure"] == derived.of and tuple(x["by"]) == derived.by and not x["reference"]
        )
        for line in source:
            if None in line["mean"]:
                continue  # a loss that is no number has no derived figure
            result = derived.value([tuple(level) for level in line["at"]], line["mean"])
            if result is not None:
                levels = list(result)
                made.append(
                    _line(
                        line["set"],
                        line["learner"],
                        derived.name,
                        None,
                        derived.unit,
                        derived.result_by,
                        levels,
                        [result[x] for x in levels],
                        [None] * len(levels),
                        [sum(line["n"])] * len(levels),
                    )
                )
    return made


@dataclass(frozen=True)
class _Fixed:
    """Every stream follows the evaluation seed, so an evaluation set never depends on a run's own seeds."""

    eval: int

    def __getattr__(self, stream: str) -> int:
        return self.eval


def predictor(model: nn.Module, task: Task, device: torch.device, precision: str = "float32") -> Predict:
    """The model as a learner: no dropout, no gradients, predictions in float64 on the CPU."""
    space = task.interface.outputs

    def predict(batch: Batch) -> Tensor:
        training, moved = model.training, batch.to(device)
        model.eval()
        try:
            with torch.inference_mode(), autocast(device, precision):
                outputs = outputs_at_scored(model, moved)
            return space.prediction(outputs.cpu().double())  # in this order: mps has no float64
        finally:
            model.train(training)

    return predict
