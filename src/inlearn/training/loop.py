"""The training loop. Where to write and how to evaluate are arguments; what to do at which step is decided here.

Order at step n, after update n: the training line, the evaluation lines, the trajectory row, then the checkpoint,
whose manifest says how long the other files are. A resumed run cuts them there, so it ends with the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from inlearn.core.contract import Task
from inlearn.training.config import Phase, Record, Stop, Training
from inlearn.training.schedules import recorded_steps
from inlearn.training.trainer import Diverged, Trainer

Line = Mapping[str, Any]
Evaluate = Callable[[Sequence[str] | None], list[Line]]
"""Lines of the named evaluation sets (None: all monitored ones) for the model as it is now."""


class Sink(Protocol):
    """Where a run writes."""

    def line(self, line: Line) -> None: ...
    def trajectory(self, step: int, row: Tensor) -> None: ...
    def checkpoint(self, trainer: Trainer, kept: frozenset[int]) -> None:
        """Save now; afterwards only this one, the steps in `kept` and the best remain."""
        ...

    def overdue(self) -> bool:
        """True when the last checkpoint is older than the user is willing to lose."""
        ...


@dataclass(frozen=True)
class Outcome:
    """`state` is "finished", "interrupted" or "failed"; `reason` says why, where it is not the plain end."""

    state: str
    reason: str | None = None


def train(
    trainer: Trainer,
    tasks: Sequence[Task],
    record: Record,
    evaluate: Evaluate,
    sink: Sink,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Train until `training.until`, a stop condition, an interrupt or a loss that is no number.

    `tasks` has one training task a phase (one, when there are no phases).
    """
    plan, progress = Plan(trainer.training, record), trainer.progress
    if progress.step == 0 and progress.ended is None:
        observe(trainer, plan, record, evaluate, sink)
    while progress.step < plan.last and progress.ended is None:
        trainer.update(tasks[progress.phase])
        try:
            observe(trainer, plan, record, evaluate, sink)
        except Diverged as error:
            return Outcome("failed", f"{error}; the last good checkpoint is kept")
        if interrupted() and progress.step < plan.last:
            sink.checkpoint(trainer, plan.checkpoints)
            return Outcome("interrupted")
    if progress.step not in plan.evaluations:
        # A look at the weights as they are. It comes after the checkpoint, so a longer run cuts it away again.
        for line in evaluate(None):
            sink.line({**line, "step": progress.step})
    return Outcome("failed" if progress.failed else "finished", progress.ended)


class Plan:
    """Which steps are which, from the configuration alone."""

    def __init__(self, training: Training, record: Record):
        self.last = training.last
        self.evaluations = recorded_steps(record.evaluations, training.steps)
        self.checkpoints = recorded_steps(record.checkpoints, training.steps)
        self.trajectory = recorded_steps(record.trajectory, training.steps) if record.trajectory else frozenset()


def observe(trainer: Trainer, plan: Plan, record: Record, evaluate: Evaluate, sink: Sink) -> None:
    """Everything that is written after an update (and before the first), in the order that resume relies on."""
    progress = trainer.progress
    step = progress.step
    if step and step % record.training == 0:
        mean_loss = trainer.take_mean_loss()
        rate = trainer.optimiser.param_groups[0]["lr"]
        norm = float(trainer.gradient_norm)
        sink.line(
            {
                "event": "training",
                "step": step,
                "loss": mean_loss,
                "rate": rate,
                "gradient_norm": norm,
                "phase": progress.phase,
            }
        )
    better = False
    if step in plan.evaluations:
        trainer.check_losses()
        lines = evaluate(None)
        for line in lines:
            sink.line({**line, "step": step})
        better = _is_best(progress, record.best, lines)
    _look_at_conditions(trainer, evaluate)
    if step in plan.trajectory:
        sink.trajectory(step, trainer.flat.values.detach())
    ends = step == plan.last or progress.ended is not None
    if step in plan.checkpoints or better or ends or sink.overdue():
        trainer.check_losses()
        sink.checkpoint(trainer, plan.checkpoints)


def _value(lines: Sequence[Line], set_: str, measure: str, reference: str | None) -> float | None:
    wanted = (set_, measure, reference, [])
    found = (x for x in lines if (x["set"], x["measure"], x["reference"], x["by"]) == wanted)
    return next((line["mean"][0] for line in found), None)


def _is_best(progress: Any, best: str | None, lines: Sequence[Line]) -> bool:
    """Whether this evaluation is the lowest of `record.best`, written set/measure or set/distance/reference."""
    if best is None or progress.step == 0:
        return False
    set_, _, rest = best.partition("/")
    measure, _, reference = rest.partition("/")
    value = _value(lines, set_, measure, reference or None)
    if value is None or (progress.best is not None and value >= progress.best["value"]):
        return False
    progress.best = {"step": progress.step, "value": value, "measure": best}
    return True


# ---------------------------------------------------------------- stop conditions and phases


def _look_at_conditions(trainer: Trainer, evaluate: Evaluate) -> None:
    training, progress = trainer.training, trainer.progress
    if training.stop is not None and (reason := _holds(training.stop, "run", progress, evaluate)):
        progress.ended = f"stopped early: {reason}"
        return
    if not training.phases:
        return
    phase: Phase = training.phases[progress.phase]
    inside = progress.step - progress.phase_start
    reached = phase.end is not None and _holds(phase.end, f"phase {progress.phase}", progress, evaluate)
    if not reached and inside < phase.steps:
        return
    if phase.end is not None and not reached:
        progress.failed = True
        progress.ended = f"phase {progress.phase} did not reach its end condition within {phase.steps} steps"
    elif progress.phase + 1 < len(training.phases):
        following = training.phases[progress.phase + 1]
        trainer.begin_phase(progress.phase + 1, following.optimiser == "fresh")
    elif reached and progress.step < training.steps:
        progress.ended = f"finished early: {reached}"


def _holds(stop: Stop, name: str, progress: Any, evaluate: Evaluate) -> str | None:
    """Why the condition holds now, or None. What patience remembers lives in `progress`, hence in checkpoints."""
    if progress.step == 0 or progress.step % stop.every:
        return None
    value = _value(evaluate([stop.set]), stop.set, stop.measure, stop.reference)
    what = f"{stop.set}/{stop.measure}" + (f"/{stop.reference}" if stop.reference else "")
    if value is None:
        raise KeyError(f"{what} is not measured")
    if stop.below is not None and value < stop.below:
        return f"{what} = {value:.4g} is below {stop.below:g}"
    if stop.above is not None and value > stop.above:
        return f"{what} = {value:.4g} is above {stop.above:g}"
    if stop.patience is not None:
        memory = progress.looks.setdefault(name, {"best": value, "since": 0})
        better = value > memory["best"] if stop.above is not None else value < memory["best"]
        memory.update({"best": value, "since": 0} if better else {"since": memory["since"] + 1})
        if memory["since"] >= stop.patience:
            return f"{what} has not improved on {memory['best']:.4g} for {stop.patience} looks"
    return None
