"""Runs trained together in one process, as members of one stack. Each keeps its own folder, lease, log and end."""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from inlearn.core import device as devices
from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.evaluation.evaluate import predictor
from inlearn.lab import discovery
from inlearn.lab.build import Built, build, build_member
from inlearn.lab.described import blamed_on, study_document
from inlearn.lab.device_faults import device_fault
from inlearn.lab.ended import Ended, ended_by
from inlearn.lab.interrupts import interrupts
from inlearn.lab.object_storage import kept_remotely
from inlearn.lab.request import Request, request
from inlearn.lab.signature import alone, first_difference
from inlearn.lab.sitting import Sitting
from inlearn.lab.start import carry_over
from inlearn.lab.trackers.choice import check_trackers
from inlearn.lab.updates import updates_of
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.training.graphs import Together
from inlearn.training.loop import Course, Evaluate, Outcome
from inlearn.training.stack import Member, Stack
from inlearn.training.together import train_together

Say = Callable[[str], None]
End = Callable[[Sitting, Outcome | Exception | None], None]
"""Told once of every sitting: how it ended, what went wrong with it, or None where nothing was left to do."""


def start_together(study: str, wanted: Sequence[Sequence[str]], root: Path, say: Say = print) -> list[Ended]:
    """Train the runs that these lists of overrides ask for as one stack; how each ended, in their order.

    Runs that have begun go on where they stand, and finished ones are left as they are. Whatever befalls one alone
    (refused, held by another process, a loss that is no number) leaves the others as they would be without it.
    Raises `UserError`, naming the key, where the runs cannot be trained together, before anything is made.
    """
    if (world := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(f"WORLD_SIZE = {world}: a stack is trained by one process, not by torchrun's")
    found = discovery.study(study)
    ends: dict[int, Ended] = {}
    asked: dict[int, Request] = {}
    for index, overrides in enumerate(wanted):
        try:
            asked[index] = request(found, overrides, root)
        except (UserError, EnvironmentFault) as error:
            ends[index] = ended_by("", error)
    _check_alike(list(asked.values()))
    _make_room_for_files(len(asked))
    with contextlib.ExitStack() as everything, interrupts():
        seats: dict[Sitting, tuple[int, contextlib.ExitStack]] = {}
        for index, one in asked.items():
            own = everything.enter_context(contextlib.ExitStack())
            try:
                with blamed_on(found.source):
                    seats[_seat(one, root, say, len(asked), own)] = index, own
            except Exception as error:
                own.close()
                ends[index] = ended_by(one.id, error)

        def end(sitting: Sitting, result: Outcome | Exception | None) -> None:
            index, own = seats[sitting]
            id, state = sitting.folder.id, "finished" if result is None else getattr(result, "state", "failed")
            try:
                with blamed_on(found.source), own:
                    if isinstance(result, Exception):
                        raise result
                    if result is not None:
                        sitting.conclude(result)
                ends[index] = Ended(id, state, (result and result.reason) or "")
            except Exception as error:
                ends[index] = ended_by(id, error)

        try:
            carry_out_together(list(seats), end)
        except Exception as error:  # of an update, which befell all that were left
            for sitting, (index, _) in seats.items():
                if index not in ends:
                    end(sitting, error)
    return [ends[index] for index in range(len(wanted))]


def _check_alike(asked: Sequence[Request]) -> None:
    for one in asked:
        if len(asked) > 1 and (why := alone(one.config)):
            raise UserError(f"run {one.id} cannot be trained in a stack with others: {why}")
        if different := first_difference(asked[0].config, one.config):
            key, here, there = different
            raise UserError(
                f"{key} = {here} and {key} = {there} cannot be trained in one stack: expected one value in all runs"
            )
    if len({one.id for one in asked}) < len(asked):
        raise UserError("a run is asked for twice in one stack; expected each once")


FILES = 8  # that a member may hold open: lease, log, metrics, trajectory, and those of trackers and uploads
OWN_FILES = 128  # of the process itself, torch's libraries among them


def _make_room_for_files(members: int) -> None:
    """Take more open files where the machine allows them. Raises `UserError` where it does not allow enough."""
    needed = FILES * members + OWN_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        fit = max(1, (hard - OWN_FILES) // FILES)
        raise UserError(
            f"{members:,} runs in one stack need {needed:,} open files, and this machine allows {hard:,} "
            f"(ulimit -Hn); expected at most {fit:,} (engine.stack={fit})"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _seat(asked: Request, root: Path, say: Say, members: int, held: contextlib.ExitStack) -> Sitting:
    """A run as a member, its folder made and held; what is held is let go with `held`."""
    check_trackers(asked.config.track)
    built = build(asked.config)
    member = build_member(built)
    held.enter_context(kept_remotely(root, asked.id, say))
    begun = CheckpointStore(root / asked.id).steps()
    carried = carry_over(member, root, asked.parent) if asked.parent and not begun else None
    source = asked.found.source.read_bytes() if asked.found.source else None
    described = study_document(built, asked.found)
    folder = RunFolder.create(root, asked.id, asked.document, described, asked.config.name, source)
    return held.enter_context(Sitting(folder, built, member, carried, say, members))


def carry_out_together(sittings: Sequence[Sitting], end: End) -> None:
    """Train the runs of these sittings, whose learners are `Member`s, as one stack, each to where it is to go.

    Only those whose updates are made in one way go together; and with phases, whose batches may differ in shape, only
    those that stand at one step. What goes wrong with an update is raised, after all that were still going have left;
    of a device that fails each is told for itself.
    """
    companies: dict[tuple[str, int], list[Sitting]] = defaultdict(list)
    for sitting in sittings:
        steps = CheckpointStore(sitting.folder.path).steps() if sitting.config.training.phases else []
        companies[sitting.launch, steps[-1] if steps else 0].append(sitting)
    told: set[Sitting] = set()

    def tell(sitting: Sitting, result: Outcome | Exception | None) -> None:
        told.add(sitting)
        end(sitting, result)

    for company in companies.values():
        try:
            _carry_out(company, tell)
        except Exception as error:
            if devices.fault_of(error) is None:
                raise
            for sitting in company:
                if sitting not in told:
                    end(sitting, device_fault(error, sitting.folder, sitting.built))


def _carry_out(sittings: Sequence[Sitting], end: End) -> None:
    first = sittings[0].built
    stack = Stack([sitting.learner for sitting in sittings], first.device, first.config.precision)
    going: dict[Member, Sitting] = {}
    courses: dict[Member, Course] = {}

    def left(member: Member, result: Outcome | Exception) -> None:
        sitting = going.pop(member)
        known = isinstance(result, Outcome)
        try:
            sitting.leave(result if known else Outcome("failed", f"{type(result).__name__}: {result}"))
        except Exception as error:
            result = error if known else result
        end(sitting, result)

    with interrupts() as interrupted:
        for sitting in sittings:
            try:
                if not sitting.take_up():
                    end(sitting, None)
                    continue
                sink = sitting.open()
            except Exception as error:
                end(sitting, error)
                continue
            going[sitting.learner] = sitting
            asked = _asked_to_leave(sitting, interrupted)
            record = sitting.config.record
            courses[sitting.learner] = Course(sitting.learner, record, _evaluation_of(sitting), sink, asked)
        try:
            if going:
                stack.settle(list(going))
                resumed = {member: sitting.resumed for member, sitting in going.items()}
                train_together(stack, courses, resumed, left, updates_of(going.values(), Together(stack)))
        except BaseException as error:
            broken_off = isinstance(error, KeyboardInterrupt)
            outcome = Outcome("interrupted" if broken_off else "failed", f"{type(error).__name__}: {error}")
            for sitting in going.values():
                if fault := device_fault(error, sitting.folder, sitting.built):
                    outcome = Outcome(fault.state, str(fault))
                with contextlib.suppress(EnvironmentFault):  # the first error is the one to hear of
                    sitting.leave(outcome)
            raise


def _asked_to_leave(sitting: Sitting, interrupted: Callable[[], bool]) -> Callable[[], bool]:
    return lambda: interrupted() or sitting.lease.asked_to_leave


def _evaluation_of(sitting: Sitting) -> Evaluate:
    built: Built = sitting.built
    predict = predictor(sitting.learner.model, built.study.tasks["train"], built.device, built.config.precision)
    return lambda sets: sitting.evaluator.learner("model", predict, sets)
