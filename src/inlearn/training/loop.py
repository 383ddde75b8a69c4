"""The training loop. Where to write and how to evaluate are arguments; what to do at which step is decided here.

Order at step n, after update n: the training line, the evaluation lines, the trajectory row, then the checkpoint,
whose manifest says how long the other files are. A resumed run cuts them there, so it ends with the same bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from inlearn.core.contract import Task
from inlearn.training.config import Phase, Record, Stop, Training, Watched
from inlearn.training.learner import Diverged, Learner, Progress
from inlearn.training.schedules import recorded_steps
from inlearn.training.trainer import Trainer

Line = Mapping[str, Any]
Evaluate = Callable[[Sequence[str] | None], list[Line]]
"""Lines of the named evaluation sets (None: all monitored ones) for the model as it is now."""


class Sink(Protocol):
    """Where a run writes."""

    def line(self, line: Line) -> None: ...
    def trajectory(self, step: int, row: Tensor) -> None: ...
    def checkpoint(self, learner: Learner, kept: frozenset[int]) -> None:
        """Save now; afterwards only this one, the steps in `kept` and the best remain."""
        ...

    def overdue(self) -> bool:
        """True when the last checkpoint is older than the user is willing to lose."""
        ...


class Updates(Protocol):
    """What makes updates several at a time (graphs.py)."""

    def advance(self, most: int) -> None:
        """Make at least one update and at most `most`, so many that an interrupt need not wait long."""
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
    resumed: bool = False,
    updates: Updates | None = None,
) -> Outcome:
    """Train until `training.until`, a stop condition, an interrupt, or a loss that is no number.

    `tasks` has one training task a phase (one, when there are no phases). `resumed` says that the trainer holds a
    checkpoint, whose own lines are written already. `updates`, where given, makes the updates, several at a time.
    """
    course = Course(trainer, record, evaluate, sink, interrupted)
    outcome = course.begin(resumed)
    while outcome is None:
        if updates is None:
            trainer.update(tasks[trainer.progress.phase])
        else:
            updates.advance(course.clear())
        outcome = course.go_on()
    return outcome


class Course:
    """One run on its way: what is written and looked at between its updates, and when it ends."""

    def __init__(
        self, learner: Learner, record: Record, evaluate: Evaluate, sink: Sink, interrupted: Callable[[], bool]
    ):
        self.learner, self.record, self.evaluate, self.sink = learner, record, evaluate, sink
        self.interrupted = interrupted
        self.plan = Plan(learner.training, record)

    def clear(self) -> int:
        """After how many updates something is next due by the configuration. An interrupt, or a checkpoint that is
        overdue, may be looked at later than it comes: they name no step."""
        training, progress = self.learner.training, self.learner.progress
        step, inside = progress.step, progress.step - progress.phase_start
        due = [self.plan.after(step) - step, _until_multiple(step, self.record.training)]
        if training.stop is not None:
            due.append(_until_multiple(step, training.stop.every))
        if training.phases:
            phase = training.phases[progress.phase]
            due.append(phase.steps - inside)
            if phase.end is not None:
                due.append(_until_multiple(inside, phase.end.every))
        return min(due)

    def begin(self, resumed: bool) -> Outcome | None:
        """Before the first update of this process; the outcome, if there is nothing left to do."""
        return self._step(look=not resumed, interruptible=False)

    def go_on(self) -> Outcome | None:
        """After an update; the outcome, if it was the last."""
        return self._step(look=True, interruptible=True)

    def _step(self, look: bool, interruptible: bool) -> Outcome | None:
        progress = self.learner.progress
        try:
            if look:
                observe(self.learner, self.plan, self.record, self.evaluate, self.sink)
            asked = interruptible and self.interrupted()  # by every process at every step
            if progress.step >= self.plan.last or progress.ended is not None:
                return self._end()
            if asked:
                save(self.learner, self.plan, self.sink)
                return Outcome("interrupted")
        except Diverged as error:
            return Outcome("failed", f"{error}; the last good checkpoint is kept")
        return None

    def _end(self) -> Outcome:
        progress = self.learner.progress
        if progress.step not in self.plan.evaluations:
            # A look at the weights as they are. It comes after the checkpoint, so a longer run cuts it away again.
            for line in self.evaluate(None):
                self.sink.line({**line, "step": progress.step})
        return Outcome("failed" if progress.failed else "finished", progress.ended)


class Plan:
    """Which steps are which, from the configuration alone."""

    def __init__(self, training: Training, record: Record):
        self.last = training.last
        self.evaluations = recorded_steps(record.evaluations, training.steps)
        self.checkpoints = recorded_steps(record.checkpoints, training.steps)
        self.trajectory = recorded_steps(record.trajectory, training.steps) if record.trajectory else frozenset()
        self._due = sorted({self.last, *self.evaluations, *self.checkpoints, *self.trajectory})

    def after(self, step: int) -> int:
        """The next step at which something is recorded; `step` is before the last."""
        return self._due[bisect_right(self._due, step)]


def _until_multiple(step: int, of: int) -> int:
    return of - step % of


def save(learner: Learner, plan: Plan, sink: Sink) -> None:
    """The only way to a checkpoint: nothing that is not finite is ever kept."""
    learner.check()
    sink.checkpoint(learner, plan.checkpoints)


def observe(learner: Learner, plan: Plan, record: Record, evaluate: Evaluate, sink: Sink) -> None:
    """Everything that is written after an update (and before the first), in the order that resume relies on."""
    progress = learner.progress
    step = progress.step
    if step and step % record.training == 0:
        line = {"loss": learner.take_mean_loss(), "rate": learner.rate_used}
        line |= {"gradient_norm": float(learner.gradient_norm), "phase": progress.phase}
        sink.line({"event": "training", "step": step, **line})
    better = False
    if step in plan.evaluations:
        learner.check()
        lines = evaluate(None)
        for line in lines:
            sink.line({**line, "step": step})
        better = _is_best(progress, record.best, lines)
    _look_at_conditions(learner, evaluate)
    if step in plan.trajectory:
        sink.trajectory(step, learner.parameters.row())
    ends = step == plan.last or progress.ended is not None
    if step in plan.checkpoints or better or ends or sink.overdue():
        save(learner, plan, sink)


def _value(lines: Sequence[Line], watched: Watched) -> float | None:
    """The watched number among evaluation lines; None where it is not there or not finite."""
    wanted = (watched.set, watched.measure, watched.reference, [])
    found = (x for x in lines if (x["set"], x["measure"], x["reference"], x["by"]) == wanted)
    return next((line["mean"][0] for line in found), None)


def _is_best(progress: Progress, best: str | None, lines: Sequence[Line]) -> bool:
    """Whether this evaluation is the lowest by `record.best` so far. The untrained model never is the best."""
    if best is None or progress.step == 0:
        return False
    value, before = _value(lines, Watched.parse(best)), progress.best
    if value is None or (before is not None and before["measure"] == best and value >= before["value"]):
        return False
    progress.best = {"step": progress.step, "value": value, "measure": best}
    return True


# ---------------------------------------------------------------- stop conditions and phases


def _look_at_conditions(learner: Learner, evaluate: Evaluate) -> None:
    training, progress = learner.training, learner.progress
    stop = training.stop
    due = stop is not None and progress.step and progress.step % stop.every == 0
    if due and (reason := _holds(stop, "run", learner, evaluate)):
        progress.ended = f"stopped early: {reason}"
    elif training.phases:
        _look_at_phase(learner, training.phases[progress.phase], evaluate)


def _look_at_phase(learner: Learner, phase: Phase, evaluate: Evaluate) -> None:
    """Hand over to the next phase, or end the run, when this phase's condition holds or its steps are used up."""
    training, progress = learner.training, learner.progress
    inside = progress.step - progress.phase_start
    complete = inside == phase.steps
    reason = None
    if phase.end is not None and inside and (complete or inside % phase.end.every == 0):
        reason = _holds(phase.end, f"phase {progress.phase}", learner, evaluate)
    if not complete and reason is None:
        return
    if phase.end is not None and reason is None:
        progress.failed = True
        progress.ended = f"phase {progress.phase} did not reach its end condition within {phase.steps} steps"
    elif progress.phase + 1 < len(training.phases):
        following = training.phases[progress.phase + 1]
        learner.begin_phase(progress.phase + 1, following.optimiser == "fresh")
    elif progress.step < training.steps:
        progress.ended = f"finished early: {reason or 'every phase is complete'}"


def _holds(stop: Stop, name: str, learner: Learner, evaluate: Evaluate) -> str | None:
    """Why the condition holds now, or None. What patience remembers lives in `progress`, hence in checkpoints."""
    learner.check()
    value = _value(evaluate([stop.set]), stop.watched)
    if value is None:
        return None  # an infinite loss is no reason to stop: a one-hot mistake has one
    if stop.below is not None and value < stop.below:
        return f"{stop.watched} = {value:.4g} is below {stop.below:g}"
    if stop.above is not None and value > stop.above:
        return f"{stop.watched} = {value:.4g} is above {stop.above:g}"
    if stop.patience is None:
        return None
    memory = learner.progress.looks.get(name)
    rising = stop.above is not None
    if memory is None or (value > memory["best"] if rising else value < memory["best"]):
        memory = {"best": value, "since": 0}
    else:
        memory = {**memory, "since": memory["since"] + 1}
    learner.progress.looks[name] = memory
    if memory["since"] >= stop.patience:
        return f"{stop.watched} has not improved on {memory['best']:.4g} for {stop.patience} looks"
    return None
