"""One process that works on one run: start it, resume it, leave it in order."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from inlearn.lab import discovery
from inlearn.lab.build import Built, build, build_member, build_trainer
from inlearn.lab.config import identity, restored
from inlearn.lab.described import blamed_on, study_document, study_of
from inlearn.lab.device_faults import device_fault
from inlearn.lab.execution import form_of
from inlearn.lab.following import SharedSink, dismiss, evaluation_of, follow, lead, together
from inlearn.lab.interrupts import interrupts
from inlearn.lab.object_storage import kept_remotely
from inlearn.lab.opened import Run
from inlearn.lab.request import request
from inlearn.lab.sitting import RunFailed, Sitting
from inlearn.lab.stacked import carry_out_together
from inlearn.lab.start import carry_over
from inlearn.lab.trackers.choice import check_trackers
from inlearn.lab.updates import updates_of
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder, check_same
from inlearn.training.graphs import Alone
from inlearn.training.learner import Learner
from inlearn.training.loop import Outcome, train
from inlearn.training.ranks import PeerLost, Ranks, joined
from inlearn.training.stack import Member
from inlearn.training.trainer import Trainer

__all__ = ["RunFailed", "resume", "start"]

Say = Callable[[str], None]


def start(study_name: str, overrides: Sequence[str], root: Path, say: Say = print) -> Run:
    """Make the run that is asked for, or take up the one that is there, and train it to where it is asked to go."""
    with joined() as ranks:
        found = discovery.study(study_name)
        with blamed_on(found.source):
            return _start(found, overrides, root, say, ranks)


def _start(found: discovery.FoundStudy, overrides: Sequence[str], root: Path, say: Say, ranks: Ranks) -> Run:
    asked = request(found, overrides, root, say if ranks.first else lambda text: None)
    config, parent, document = asked.config, asked.parent, asked.document
    check_trackers(config.track)
    built = build(config, ranks)
    # A model that cannot be built, or a parent that does not fit, is refused before a folder is made for it.
    trainer = _learner(built, folder := RunFolder(root / asked.id))
    with kept_remotely(root, document["id"], say) if ranks.first else contextlib.nullcontext():
        if form_of(folder, config.execution.engine) != _form(trainer):  # known only now that it was fetched
            trainer = _learner(built, folder)
        begun = CheckpointStore(root / document["id"]).steps()
        carried = carry_over(trainer, root, parent) if parent and not begun else None
        if not ranks.first:
            follow(built, trainer)
            return Run(RunFolder(root / document["id"]))
        source = found.source.read_bytes() if found.source else None
        folder = RunFolder.create(root, document["id"], document, study_document(built, found), config.name, source)
        return carry_out(folder, built, trainer, carried, say)


def resume(reference: str, overrides: Sequence[str], root: Path, say: Say = print) -> Run:
    """Go on with a run, by default to where it was last asked to go; `overrides` may only change what is not hashed.

    Raises `UserError` where the same request would be another run today: other numerics, data or source.
    """
    with joined() as ranks:
        folder = RunFolder.open(root, reference)
        found = study_of(folder)
        held = kept_remotely(folder.path.parent, folder.id, say) if ranks.first else contextlib.nullcontext()
        with blamed_on(found.source), held:
            return _resume(folder, found, overrides, say, ranks)


def _resume(folder: RunFolder, found: discovery.FoundStudy, overrides: Sequence[str], say: Say, ranks: Ranks) -> Run:
    config = restored(found, folder.config, overrides)
    if config.name is not None and ranks.first:
        folder.claim_name(config.name)
    check_trackers(config.track)
    built = build(config, ranks)
    content = identity(config, found, config.start)
    check_same(folder.path, {"config": content}, study_document(built, found))
    trainer = _learner(built, folder)
    begun = CheckpointStore(folder.path).steps()
    carried = carry_over(trainer, folder.path.parent, config.start) if config.start and not begun else None
    if not ranks.first:
        follow(built, trainer)
        return Run(folder)
    return carry_out(folder, built, trainer, carried, say)


def _learner(built: Built, folder: RunFolder) -> Trainer | Member:
    """What trains the run: alone, or as the only member of a stack, as it was begun or is asked for."""
    stacked = form_of(folder, built.config.execution.engine) == "stacked"
    return build_member(built) if stacked else build_trainer(built)


def _form(learner: Learner) -> str:
    return "stacked" if isinstance(learner, Member) else "solo"


def carry_out(
    folder: RunFolder, built: Built, trainer: Trainer | Member, carried: Mapping[str, Any] | None, say: Say
) -> Run:
    """Train `folder`'s run under its lease, from its last good checkpoint to `training.until`."""
    if isinstance(trainer, Member):
        with Sitting(folder, built, trainer, carried, say, members=1) as sitting:
            _carry_out_stacked(sitting)
        return Run(folder)
    with Sitting(folder, built, trainer, carried, say) as sitting:
        if not sitting.take_up():
            dismiss(built.ranks)
            return Run(folder)
        lead(built.ranks, sitting.checkpoint)
        sitting.conclude(_train(sitting, built, trainer))
    return Run(folder)


def _carry_out_stacked(sitting: Sitting) -> None:
    """A stack of one: the same bits as in any company."""
    ends: list[Outcome | Exception | None] = []
    carry_out_together([sitting], lambda _, result: ends.append(result))
    [result] = ends
    if isinstance(result, Exception):
        raise result
    if result is not None:
        sitting.conclude(result)


def _train(sitting: Sitting, built: Built, trainer: Trainer) -> Outcome:
    ranks = built.ranks
    evaluate = evaluation_of(built, trainer, sitting.evaluator)
    sink = SharedSink(ranks, sitting.open())
    outcome = Outcome("failed", "an error ended it")
    with interrupts() as interrupted:  # to the last line written: what ends a process must not end it in between
        try:
            stop = together(ranks, lambda: interrupted() or sitting.lease.asked_to_leave)
            record = built.config.record
            updates = updates_of([sitting], Alone(trainer, built.tasks))
            outcome = train(trainer, built.tasks, record, evaluate, sink, stop, sitting.resumed, updates)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted")
            raise
        except Exception as error:
            cause = ranks.explain(error)
            state = "interrupted" if isinstance(cause, PeerLost) else "failed"
            outcome = Outcome(state, f"{type(cause).__name__}: {cause}")
            if fault := device_fault(cause, sitting.folder, built):
                outcome = Outcome(fault.state, str(fault))
                raise fault from error
            if cause is error:
                raise
            raise cause from None
        finally:
            sitting.leave(outcome)
    return outcome
