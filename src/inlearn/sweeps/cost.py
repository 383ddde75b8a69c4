"""What a plan will cost: the parts of a run timed on this machine, for a few runs that differ in shape."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inlearn.core.configuration import digest
from inlearn.lab import discovery
from inlearn.lab.config import RunBase
from inlearn.lab.request import request
from inlearn.sweeps.standing import Standing

SHAPES = 4  # how many different shapes are timed; others are taken to cost what these do on average
LEAST_STEPS, SECONDS = 2, 1.5


@dataclass(frozen=True)
class Cost:
    """Seconds of one worker of this machine for all that is left to do; `timed` of `shapes` were timed."""

    seconds: float
    timed: int
    shapes: int


def estimate(study: str, left: Sequence[Standing], root: Path) -> Cost:
    """The cost of the runs in `left`, from where each stands to its last step.

    Runs of one shape (model, batch, precision, lengths of rows) cost the same a step. References and evaluations
    count as often as the run makes them; the start of processes and checkpoints are left out.
    """
    found = discovery.study(study)
    by_shape: dict[str, list[tuple[RunBase, int]]] = {}
    for standing in left:
        config = request(found, standing.run.overrides, root).config
        by_shape.setdefault(_shape(config), []).append((config, standing.run.last - standing.step))
    chosen = sorted(by_shape.values(), key=len, reverse=True)
    timed = [_time(runs[0][0]) for runs in chosen[:SHAPES]]
    mean = tuple(map(statistics.mean, zip(*timed, strict=True)))
    total = 0.0
    for place, runs in enumerate(chosen):
        a_step, an_evaluation, once = timed[place] if place < len(timed) else mean
        for config, steps in runs:
            total += once + steps * a_step + _evaluations(config, steps) * an_evaluation
    return Cost(total, len(timed), len(chosen))


def _shape(config: RunBase) -> str:
    """Runs with the same text differ only in seeds and rates. A study's own keys may all change what a step costs."""
    study = config.study.model_dump(mode="json")
    return digest([study, config.model.model_dump(mode="json"), config.training.batch, config.precision])


def _evaluations(config: RunBase, steps: int) -> int:
    from inlearn.training.loop import Plan

    last = config.training.last
    return sum(last - steps < step <= last for step in Plan(config.training, config.record).evaluations)


def _time(config: RunBase) -> tuple[float, float, float]:
    """Seconds a step, an evaluation, and once a run (building it, the ideal learners)."""
    from inlearn.evaluation.evaluate import Evaluator, predictor
    from inlearn.lab.build import build, build_trainer

    began = time.perf_counter()
    built = build(config)
    trainer = build_trainer(built)
    evaluator = Evaluator(built.study, config.seeds)
    evaluator.references()
    once = time.perf_counter() - began
    predict = predictor(trainer.model, built.study.tasks["train"], built.device, config.precision)
    began = time.perf_counter()
    evaluator.learner("model", predict, None)
    an_evaluation = time.perf_counter() - began
    trainer.update(built.tasks[0])  # the first one allocates
    trainer.take_mean_loss()
    began, steps = time.perf_counter(), 0
    while steps < LEAST_STEPS or time.perf_counter() - began < SECONDS:
        trainer.update(built.tasks[0])
        trainer.take_mean_loss()
        steps += 1
    return (time.perf_counter() - began) / steps, an_evaluation, once
