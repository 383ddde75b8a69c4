"""One process that works on one run: start it, resume it, leave it in order."""

from __future__ import annotations

import contextlib
import json
import shlex
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import write_bytes, write_json
from inlearn.evaluation.evaluate import Evaluator
from inlearn.lab import discovery
from inlearn.lab.build import Built, build, build_trainer
from inlearn.lab.config import RunBase, identity, restored, stored
from inlearn.lab.execution import differences, run_log, segment
from inlearn.lab.following import SharedSink, dismiss, evaluation_of, follow, lead, together
from inlearn.lab.interrupts import interrupts
from inlearn.lab.mirrors import mirrors_of
from inlearn.lab.object_storage import kept_remotely
from inlearn.lab.opened import Run
from inlearn.lab.request import request
from inlearn.lab.sink import FolderSink, Progress
from inlearn.lab.start import carry_over
from inlearn.lab.trackers.choice import check_trackers
from inlearn.runs.checkpoints import Checkpoint, CheckpointStore
from inlearn.runs.folder import RunFolder, check_same
from inlearn.runs.lease import Lease
from inlearn.runs.lines import read_lines, truncate
from inlearn.runs.remote_root import shown
from inlearn.runs.trajectory import Trajectory
from inlearn.training.loop import Outcome, Plan, train
from inlearn.training.ranks import PeerLost, Ranks, joined
from inlearn.training.trainer import Trainer

Say = Callable[[str], None]


def start(study_name: str, overrides: Sequence[str], root: Path, say: Say = print) -> Run:
    """Make the run that is asked for, or take up the one that is there, and train it to where it is asked to go."""
    with joined() as ranks:
        found = discovery.study(study_name)
        with blamed_on(found.source):
            return _start(found, overrides, root, say, ranks)


def _start(found: discovery.FoundStudy, overrides: Sequence[str], root: Path, say: Say, ranks: Ranks) -> Run:
    asked = request(found, overrides, root)
    config, parent, document = asked.config, asked.parent, asked.document
    check_trackers(config.track)
    built = build(config, ranks)
    # A model that cannot be built, or a parent that does not fit, is refused before a folder is made for it.
    trainer = build_trainer(built)
    with kept_remotely(root, document["id"], say) if ranks.first else contextlib.nullcontext():
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
    trainer = build_trainer(built)
    begun = CheckpointStore(folder.path).steps()
    carried = carry_over(trainer, folder.path.parent, config.start) if config.start and not begun else None
    if not ranks.first:
        follow(built, trainer)
        return Run(folder)
    return carry_out(folder, built, trainer, carried, say)


@contextlib.contextmanager
def blamed_on(source: Path | None) -> Iterator[None]:
    """Turn an error that comes out of a user's own study file into one sentence with its line."""
    try:
        yield
    except (UserError, EnvironmentFault):
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if source and Path(f.filename) == source]
        if not lines:
            raise
        raise UserError(f"{source}, line {lines[-1]}: {type(error).__name__}: {error}") from error


def study_of(folder: RunFolder) -> discovery.FoundStudy:
    """The study of a stored run: a built-in one, or the file that was kept inside its folder."""
    own = folder.path / "source.py"
    return discovery.study(str(own) if own.exists() else folder.study["kind"])


def study_document(built: Built, found: discovery.FoundStudy) -> dict[str, Any]:
    """study.json: what a reader needs to understand the tables without our code."""
    study = built.study
    describe = ("name", "unit", "formula")
    return {
        "kind": found.kind,
        "output_unit": study.interface.outputs.unit,
        "monitored": list(study.monitored),
        "labels": {
            name: {k: list(v) for k, v in task.labels.items()} for name, task in study.tasks.items() if task.labels
        },
        "measures": [{k: getattr(m, k) for k in describe} for m in study.measures],
        "references": [
            {"set": set_, "name": r.name, "mechanism": r.mechanism}
            for set_ in study.monitored
            for r in study.references(set_)
        ],
        "bounds": [{k: getattr(b, k) for k in (*describe, "value")} for b in study.bounds],
    }


def carry_out(folder: RunFolder, built: Built, trainer: Trainer, carried: Mapping[str, Any] | None, say: Say) -> Run:
    """Train `folder`'s run under its lease, from its last good checkpoint to `training.until`."""
    config = built.config
    with Lease(folder.path, say) as lease, run_log(folder.path / "run.log", config.execution.log_level) as log:
        checkpoint, before = _take_up(folder, trainer, log.warning)
        progress, last = trainer.progress, config.training.last
        done = progress.ended is not None or progress.step >= last
        if progress.failed:
            raise RunFailed(f"run {folder.id} failed: {progress.ended}")
        if done and folder.status.state == "finished":
            dismiss(built.ranks)
            where = f"run {folder.id} is at step {progress.step:,} already"
            if progress.ended is not None:
                say(f"{where}: {progress.ended}")
            elif progress.step < config.training.steps:
                say(f"{where}; {resume_command(folder, built.ranks)} training.until=none goes on")
            else:
                say(where)
            return Run(folder)
        if before:
            _cut(folder, before["lengths"])
        _remember(folder, config)
        processes = built.ranks.world
        now = segment(built.device, config.execution.threads, progress.step, processes, built.parallel)
        if folder.segments and (changes := differences(folder.segments[-1], now)):
            log.warning("resumed elsewhere, so the last bits may differ: %s", "; ".join(changes))
        folder.add_segment(now)
        evaluator = Evaluator(built.study, config.seeds)
        if not before:
            _begin(folder, evaluator, carried, log.warning)
        log.info(
            "run %s: %s, %s parameters, on %s%s, steps %s to %s",
            folder.id,
            folder.study["kind"],
            f"{trainer.count:,}",
            built.device,
            f" in {processes} processes ({built.parallel})" if processes > 1 else "",
            f"{progress.step:,}",
            f"{last:,}",
        )
        lead(built.ranks, checkpoint)
        outcome = _train(folder, built, trainer, evaluator, lease, log.info, resumed=before is not None)
        if outcome.state == "failed":
            raise RunFailed(f"run {folder.id} failed: {outcome.reason}")
        if outcome.state == "interrupted":
            command = resume_command(folder, built.ranks)
            say(f"run {folder.id} is saved at step {progress.step:,}; go on with: {command}")
        else:
            why = f": {outcome.reason}" if outcome.reason else ""
            say(f"run {folder.id} is at step {progress.step:,} of {config.training.steps:,}{why}")
    return Run(folder)


class RunFailed(EnvironmentFault):
    """Training could not go on: the loss stopped being a number, or a phase missed its end condition."""


def _take_up(folder: RunFolder, trainer: Trainer, say: Say) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """Load the last good checkpoint into `trainer`; it and its manifest, or Nones where the run has not begun."""
    loaded = CheckpointStore(folder.path).load_last_good(say)
    if loaded is None:
        if any(line["step"] for line in read_lines(folder.path / "metrics.jsonl")):
            raise EnvironmentFault(
                f"{folder.path} has metrics of a run under way and no checkpoint; put its checkpoints folder back, "
                "or delete the run folder to train from the start"
            )
        return None, None
    checkpoint, manifest = loaded
    trainer.load(checkpoint.weights, checkpoint.optimiser, checkpoint.state)
    return checkpoint, manifest


def _cut(folder: RunFolder, lengths: Mapping[str, int]) -> None:
    """Cut away what was written after the checkpoint: it will be written again, the same."""
    truncate(folder.path / "metrics.jsonl", lengths["metrics.jsonl"])
    if (folder.path / "trajectory").exists():
        # A checkpoint from before a trajectory was asked for knows no rows of it.
        Trajectory.open(folder.path / "trajectory").truncate(lengths.get("trajectory", 0))


def _begin(folder: RunFolder, evaluator: Evaluator, carried: Mapping[str, Any] | None, say: Say) -> None:
    """Write what comes before the first step, on a folder that nothing was learned in: leftovers of a kill go."""
    (folder.path / "metrics.jsonl").unlink(missing_ok=True)
    if (folder.path / "trajectory").exists():
        Trajectory.open(folder.path / "trajectory").truncate(0)
    lines = evaluator.references()
    write_bytes(
        folder.path / "references.jsonl", b"".join(json.dumps(x, allow_nan=False).encode() + b"\n" for x in lines)
    )
    if carried is not None:
        write_json(folder.path / "carried.json", carried)
        taken, fresh = len(carried["carried"]), carried["fresh"]
        names = f"; fresh: {', '.join(fresh[:4])}{' …' if len(fresh) > 4 else ''}" if fresh else ""
        say(f"{taken} of {taken + len(fresh)} parameters come from {carried['parent']}{names} (carried.json)")


def _remember(folder: RunFolder, config: RunBase) -> None:
    """Keep what this invocation asked for beside the identity, so that the next resume goes to the same end."""
    document = stored(config, folder.config["config"])
    for key in ("name", "tags"):  # not naming a run again does not take its name away
        document["unhashed"][key] = document["unhashed"][key] or folder.config["unhashed"][key]
    if document["unhashed"] != folder.config["unhashed"]:
        write_json(folder.path / "config.json", document)
        folder.__dict__.pop("config", None)


def _train(
    folder: RunFolder, built: Built, trainer: Trainer, evaluator: Evaluator, lease: Lease, say: Say, resumed: bool
) -> Outcome:
    config, ranks = built.config, built.ranks
    evaluate = evaluation_of(built, trainer, evaluator)
    dense = None
    if config.record.trajectory is not None:
        dense = Trajectory(folder.path / "trajectory", trainer.parameters.layout)
    progress = Progress(trainer.progress.step, config.training.last, say)
    folder.set_status("running", trainer.progress.step)
    mirrors = mirrors_of(folder, config)
    sink = FolderSink(folder, lease, config.record.rolling, dense, progress, mirrors)
    # What a kill left between a checkpoint and its tidying.
    sink.tidy(trainer, Plan(config.training, config.record).checkpoints)
    outcome, began = Outcome("failed", "an error ended it"), time.monotonic()
    with interrupts() as interrupted:  # to the last line written: what ends a process must not end it in between

        def leaves() -> bool:
            return interrupted() or lease.asked_to_leave

        try:
            shared, stop = SharedSink(ranks, sink), together(ranks, leaves)
            outcome = train(trainer, built.tasks, config.record, evaluate, shared, stop, resumed)
        except KeyboardInterrupt:
            outcome = Outcome("interrupted")
            raise
        except Exception as error:
            cause = ranks.explain(error)
            state = "interrupted" if isinstance(cause, PeerLost) else "failed"
            outcome = Outcome(state, f"{type(cause).__name__}: {cause}")
            if cause is error:
                raise
            raise cause from None
        finally:
            _leave(folder, lease, sink, outcome, trainer.progress.step, time.monotonic() - began)
    return outcome


def _leave(folder: RunFolder, lease: Lease, sink: FolderSink, outcome: Outcome, step: int, seconds: float) -> None:
    """Write the last of a process, each part whatever became of the others; nothing where the lease went to another."""
    ours = lease.is_ours()
    try:
        sink.close(flush=ours)
    except EnvironmentFault as fault:
        outcome = Outcome("failed", str(fault))
        raise
    finally:
        with contextlib.ExitStack() as rest:  # in the reverse of this order
            for mirror in reversed(sink.mirrors):
                rest.callback(mirror.end, outcome)
            if ours:
                rest.callback(folder.amend_segment, to_step=step, seconds=round(seconds, 1))
                rest.callback(folder.set_status, outcome.state, step, outcome.reason or "")


def resume_command(folder: RunFolder, ranks: Ranks) -> str:
    here = folder.path.parent
    where = "" if here == Path("runs").resolve() or here == Path("runs") else f" --runs {shlex.quote(shown(here))}"
    processes = f"torchrun --nproc-per-node {ranks.world} --no-python " if ranks.world > 1 else ""
    return f"{processes}inlearn resume {folder.name or folder.id}{where}"
