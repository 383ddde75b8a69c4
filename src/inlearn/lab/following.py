"""One run in several processes: the first leads (lab/session.py), the others follow it from here.

Only the first reads and writes the run's folder. Every step that depends on what it alone sees, evaluations, the
age of the last checkpoint, signals, is taken by all of them together, so the training loop is the same in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab.build import Built
from inlearn.lab.interrupts import interrupts
from inlearn.runs.checkpoints import Checkpoint
from inlearn.training.learner import Learner
from inlearn.training.loop import Evaluate, Sink, train
from inlearn.training.ranks import Ranks
from inlearn.training.trainer import Trainer


def evaluation_of(built: Built, trainer: Trainer, evaluator: Evaluator | None) -> Evaluate:
    """Evaluation lines, the first process's in all. A sharded model predicts in all, a whole one in the first alone."""
    sharded = built.parallel == "fsdp"
    predict = predictor(trainer.model, built.study.tasks["train"], built.device, built.config.precision, sharded)

    def evaluate(sets: Sequence[str] | None) -> list[dict[str, Any]]:
        takes_part = sharded or built.ranks.first
        lines = evaluator.learner("model", predict, sets) if takes_part and evaluator is not None else None
        return built.ranks.from_first(lines)

    return evaluate


class SharedSink:
    """The training loop's `Sink` in each process: `sink` of the first writes, the others have none."""

    def __init__(self, ranks: Ranks, sink: Sink | None = None):
        self.ranks, self.sink = ranks, sink

    def line(self, line: Mapping[str, Any]) -> None:
        if self.sink is not None:
            self.sink.line(line)

    def trajectory(self, step: int, row: Tensor) -> None:
        if self.sink is not None:
            self.sink.trajectory(step, row)

    def checkpoint(self, learner: Learner, kept: frozenset[int]) -> None:
        if self.sink is not None:
            self.sink.checkpoint(learner, kept)
        else:  # parts of it lie here
            learner.weights()
            learner.optimiser_state()

    def overdue(self) -> bool:
        return self.ranks.any(self.sink is not None and self.sink.overdue())


def together(ranks: Ranks, flag: Callable[[], bool]) -> Callable[[], bool]:
    """`flag` as soon as it holds in any process."""
    return lambda: ranks.any(flag())


def lead(ranks: Ranks, checkpoint: Checkpoint | None) -> None:
    """Send the others into training, from `checkpoint` or the beginning."""
    if ranks.world == 1:
        return
    ranks.from_first({"train": True, "state": checkpoint and checkpoint.state})
    if checkpoint is not None:
        ranks.tensors_from_first(checkpoint.weights)
        ranks.tensors_from_first(checkpoint.optimiser)


def dismiss(ranks: Ranks) -> None:
    """Let the others end: there is nothing to train."""
    ranks.from_first({"train": False})


def follow(built: Built, trainer: Trainer) -> None:
    """What every process but the first does with a run."""
    ranks, config = built.ranks, built.config
    order = ranks.from_first()
    if not order["train"]:
        return
    if order["state"] is not None:
        weights, optimiser = ranks.tensors_from_first(), ranks.tensors_from_first()
        trainer.load(weights, optimiser, order["state"])
    evaluator = Evaluator(built.study, config.seeds) if built.parallel == "fsdp" else None
    evaluate = evaluation_of(built, trainer, evaluator)
    with interrupts() as interrupted:
        stop, resumed = together(ranks, interrupted), order["state"] is not None
        outcome = train(trainer, built.tasks, config.record, evaluate, SharedSink(ranks), stop, resumed)
    if outcome.state == "failed":
        raise SystemExit(1)  # the first says why
