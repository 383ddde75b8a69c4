"""Every learner, trained or ideal, on every evaluation set, by every measure of the study.

Evaluation sets are drawn at a fixed address (stream `eval`, step 0), the same for every run, so comparisons between
checkpoints, seeds and architectures are paired. Small sets and the reference learners' predictions on them are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from inlearn.core.batch import Batch
from inlearn.core.contract import Measure, Study, Task
from inlearn.core.device import autocast
from inlearn.core.draws import Address, StreamSeeds
from inlearn.core.errors import unknown
from inlearn.evaluation.sums import Grouping, Summary
from inlearn.models.forward import outputs_at_scored, outputs_running_freely

Predict = Callable[[Batch], Tensor]
"""Predictions (n, width) at a batch's scored positions."""

POSITIONS = 1 << 15  # positions in one forward pass: more gain nothing and cost memory
PREDICTIONS = 1 << 24  # numbers in one chunk of predictions: 128 MiB in float64
KEPT = 1 << 26  # numbers of batches and reference predictions that stay in memory between evaluations


@dataclass(frozen=True)
class Chunk:
    batch: Batch
    references: Mapping[str, Tensor]


def _size(chunk: Chunk) -> int:
    return chunk.batch.inputs.numel() + sum(prediction.numel() for prediction in chunk.references.values())


class Evaluator:
    """Evaluates learners on a study's sets. `room`: how many numbers of them it may keep in memory."""

    def __init__(self, study: Study, seeds: StreamSeeds, room: int = KEPT):
        self.study = study
        self.seeds = _Fixed(seeds.eval)
        self._kept: dict[str, list[Chunk]] = {}
        self._grouped: dict[tuple[str, bool, str | None, tuple[str, ...]], Grouping] = {}
        self._room = room

    # ------------------------------------------------------------ evaluation sets

    def chunks(self, name: str) -> Iterator[Chunk]:
        if name in self._kept:
            yield from self._kept[name]
            return
        task, references = self.task(name), self.study.references(name)
        rows = self.study.evaluation_rows(name)
        at = Address(self.seeds, "eval")
        size = self._chunk_rows(name, task, rows)
        made: list[Chunk] | None = [] if self._room > 0 else None
        for first in range(0, rows, size):
            batch = task.sample(at, min(size, rows - first), first)
            chunk = Chunk(batch, {r.name: r.predict(batch).double() for r in references})
            yield chunk
            made = None if made is None else [*made, chunk]
            if made is not None and sum(map(_size, made)) > self._room:
                made = None  # too large to keep: drawn again at every evaluation
        if made is not None:
            self._room -= sum(map(_size, made))
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
        space = self.task(set_).interface.outputs
        measures = self._measures(set_)
        loss = next(m for m in measures if m.name == "loss")
        values: dict[tuple[Measure, str | None], list[Tensor]] = {}
        batches: list[Batch] = []
        for chunk in self.chunks(set_):
            prediction = predict(chunk).double()
            for measure in measures:
                values.setdefault((measure, None), []).append(measure.value(chunk.batch, space, prediction))
            # Learners that run freely soon read different rows, and are asked different questions.
            for name, reference in chunk.references.items() if chunk.batch.feedback is None else ():
                distance = replace(loss, name="distance", unit=space.unit)
                values.setdefault((distance, name), []).append(space.divergence(reference, prediction))
            batches.append(chunk.batch)
        lines = []
        for (measure, reference), parts in values.items():
            for by, grouping in self._groupings(set_, measure, parts, batches):
                lines.append(_line(set_, learner, measure, reference, by, grouping.summary(torch.cat(parts))))
        return lines

    def _measures(self, set_: str) -> list[Measure]:
        found = [m for m in self.study.measures if not m.sets or set_ in m.sets]
        if any(m.name == "loss" for m in found):
            return found
        return [Measure("loss", self.task(set_).interface.outputs.unit, "the training loss", _loss), *found]

    def _groupings(
        self, set_: str, measure: Measure, parts: Sequence[Tensor], batches: Sequence[Batch]
    ) -> Iterator[tuple[tuple[str, ...], Grouping]]:
        """The slices of a measure, each with its grouping; those of a set are the same whenever it is evaluated."""
        a_position = all(len(part) == len(batch.scored) for part, batch in zip(parts, batches, strict=True))
        if not a_position and any(len(part) != batch.rows for part, batch in zip(parts, batches, strict=True)):
            sizes = f"{len(parts[0])} values for {len(batches[0].scored)} positions in {batches[0].rows} rows"
            raise ValueError(f"measure {measure.name}: {sizes}")

        def column(name: str) -> Tensor:
            marks = [batch.marks[name] for batch in batches]
            return torch.cat([b.at_scored(m) if a_position else m for b, m in zip(batches, marks, strict=True)])

        for by in (*([()] if measure.overall else []), *measure.by):
            if not a_position and any(batches[0].marks[name].dim() > 1 for name in by):
                continue  # a number a row has no position to be sliced by
            key = (set_, a_position, measure.cluster, by)
            if key not in self._grouped:
                clusters = column(measure.cluster) if measure.cluster else _rows(batches, a_position)
                weights = torch.cat([b.at_scored(b.weights) for b in batches]) if a_position else None
                self._grouped[key] = Grouping(clusters, [column(name) for name in by], weights)
            yield by, self._grouped[key]


def _rows(batches: Sequence[Batch], a_position: bool) -> Tensor:
    """The number of each value's row, counted through all chunks."""
    first, parts = 0, []
    for batch in batches:
        parts.append(first + (batch.scored_rows if a_position else torch.arange(batch.rows)))
        first += batch.rows
    return torch.cat(parts)


def _loss(batch: Batch, space: Any, prediction: Tensor) -> Tensor:
    target = batch.at_scored(batch.targets)
    return space.loss(prediction, target if target.dtype == torch.int64 else target.double())


def _line(
    set_: str, learner: str, measure: Measure, reference: str | None, by: Sequence[str], summary: Summary
) -> dict[str, Any]:
    def finite(values: Sequence[float | None]) -> list[float | None]:
        """JSON knows no infinity: a one-hot prediction that is wrong has no finite loss, and no number is kept."""
        return [value if value is not None and math.isfinite(value) else None for value in values]

    return {
        "event": "evaluation",
        "set": set_,
        "learner": learner,
        "measure": measure.name,
        "reference": reference,
        "unit": measure.unit,
        "by": list(by),
        "at": [list(level) for level in summary.levels],
        "mean": finite(summary.means),
        "se": finite(summary.errors),
        "n": list(summary.counts),
    }


@dataclass(frozen=True)
class _Fixed:
    """Every stream follows the evaluation seed, so an evaluation set never depends on a run's own seeds."""

    eval: int

    def __getattr__(self, stream: str) -> int:
        return self.eval


def predictor(
    model: nn.Module, task: Task, device: torch.device, precision: str = "float32", sharded: bool = False
) -> Predict:
    """The model as a learner: no dropout, no gradients, predictions in float64 on the CPU.

    A `sharded` model (FSDP) keeps the memory that it gathers weights in, which must not be made for inference alone.
    """
    space = task.interface.outputs
    without_gradients = torch.no_grad if sharded else torch.inference_mode

    def predict(batch: Batch) -> Tensor:
        training, moved = model.training, batch.to(device)
        model.eval()
        try:
            with without_gradients(), autocast(device, precision):
                if moved.feedback is None:
                    outputs = outputs_at_scored(model, moved)
                else:
                    outputs = outputs_running_freely(model, moved, space)
            return space.prediction(outputs.cpu().double())  # in this order: mps has no float64
        finally:
            model.train(training)

    return predict
