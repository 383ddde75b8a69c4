"""A plan's folder `<root>/.plans/<name>`. It says which runs belong to the plan; how they stand, their folders say.

plan.json    the document as it was asked for
runs.jsonl   one line a run: id, axes, overrides, last (the step it is asked to reach)
log.jsonl    one line for every attempt: id, state, reason, engine, time of day
leave.json   there while the plan is asked to stop
workers/  slurm/  ray/   what engines keep
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from inlearn.core.configuration import digest
from inlearn.core.errors import UserError, unknown
from inlearn.core.files import machine_faults, new_folder, read_json, write_json, write_text
from inlearn.runs.folder import NAME, RunFolder, names
from inlearn.runs.lines import read_lines
from inlearn.runs.locking import exclusive
from inlearn.runs.remote_root import url_of
from inlearn.sweeps.engine import Result
from inlearn.sweeps.plan import Plan, read_plan
from inlearn.sweeps.planned import PlannedRun


@dataclass(frozen=True)
class Changed:
    """A run of a stored plan that the same words ask for under another id now."""

    before: PlannedRun
    now: PlannedRun


class PlanFolder:
    """One plan below a root."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def root(self) -> Path:
        return self.path.parent.parent

    @cached_property
    def document(self) -> dict[str, Any]:
        return read_json(self.path / "plan.json")

    @cached_property
    def runs(self) -> list[PlannedRun]:
        lines = read_lines(self.path / "runs.jsonl")
        return [PlannedRun(x["id"], x["axes"], tuple(x["overrides"]), x["last"]) for x in lines]

    @property
    def begun(self) -> bool:
        """Whether any of its runs has a folder."""
        return any((self.root / run.id).exists() for run in self.runs)

    # ------------------------------------------------------------ attempts

    def note(self, result: Result, engine: str) -> None:
        """Add an attempt to the log. It is only there to be looked at: raises `EnvironmentFault` where it cannot be."""
        line = asdict(result) | {"engine": engine, "at": time.strftime("%Y-%m-%d %H:%M:%S %z")}
        with machine_faults(self.path), (self.path / "log.jsonl").open("a+b", buffering=0) as file:
            half = file.tell() > 0 and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            # One write, so that the lines of two processes do not mix; half a line that a full disk left stays alone.
            file.write(b"\n" * half + json.dumps(line).encode() + b"\n")

    def last_results(self) -> dict[str, dict[str, Any]]:
        """The last attempt at each run, by id."""
        found = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.path / "log.jsonl").read_bytes().splitlines():
                with contextlib.suppress(ValueError):
                    attempt = json.loads(line)
                    found[attempt["id"]] = attempt
        return found

    # ------------------------------------------------------------ stopping

    def ask_to_leave(self) -> None:
        write_json(self.path / "leave.json", {"asked": time.strftime("%Y-%m-%d %H:%M:%S %z")})

    def now(self) -> float:
        """The time by the clock that dates files here, which may be a file server's; seconds since the epoch."""
        mark = self.path / f".now.{os.getpid()}"
        with machine_faults(self.path):
            mark.touch()
        try:
            return mark.stat().st_mtime
        finally:
            mark.unlink()

    def asked_to_leave(self, since: float) -> bool:
        """Whether the plan was asked to stop after `since`, which is a time that `now` gave."""
        try:
            return os.stat(self.path / "leave.json").st_mtime >= since
        except FileNotFoundError:
            return False


def plans(root: Path) -> list[PlanFolder]:
    """Every plan below `root`, by name."""
    folder = root / ".plans"
    if not folder.is_dir():
        return []
    return [PlanFolder(path) for path in sorted(folder.iterdir()) if (path / "runs.jsonl").exists()]


def open_plan(root: Path, name: str) -> PlanFolder:
    """The plan called `name`, or the one in a YAML file of that path."""
    if name.endswith((".yaml", ".yml")):
        name = read_plan(Path(name)).name
    known = {plan.name: plan for plan in plans(root)}
    if name not in known:
        if not known:
            raise UserError(f"no plan '{name}': there are no plans in {root}")
        raise unknown("plan", name, known)
    return known[name]


def default_name(plan: Plan) -> str:
    """The plan's own name, or one that the same plan always gets."""
    content = plan.model_dump(mode="json", by_alias=True, exclude={"name"})
    return plan.name or f"{Path(plan.study).stem}-{digest(content)[:6]}"


def store_plan(
    root: Path, plan: Plan, runs: Sequence[PlannedRun], renew: bool = False
) -> tuple[PlanFolder, list[Changed]]:
    """Make or open the plan's folder, and the runs that the same words gave another id before.

    A plan may grow under its name. One that would lose runs is another plan, and refused once a run has begun: nothing
    is written then.
    Changed runs keep their stored ids, so that what was trained stays in the plan; `renew` takes the new ones, also
    where only what they start from is new, and gives them the names of those whose place they take.
    """
    name = _checked_name(plan)
    path = root / ".plans" / name
    with machine_faults(root):
        path.parent.mkdir(parents=True, exist_ok=True)
    document = plan.model_dump(mode="json", by_alias=True) | {"name": name}
    with exclusive(path.parent / ".lock"):
        if not path.exists():
            with new_folder(path) as aside:
                write_json(aside / "plan.json", document)
                _write_runs(aside, runs)
            _send(path)
            return PlanFolder(path), []
        old = _refuse_other(PlanFolder(path), runs, renew)
        new = {run.overrides: run for run in runs}
        changed = [
            Changed(old[words], run)
            for words, run in new.items()
            if words in old and old[words].id != run.id and (root / old[words].id).exists() and not renew
        ]
        if renew:
            _hand_over_names(root, old.values(), runs)
        stay = {change.now.id: change.before for change in changed}
        merged = [stay.get(run.id, run) for run in runs]
        if merged != PlanFolder(path).runs or document != PlanFolder(path).document:
            _write_runs(path, merged)
            write_json(path / "plan.json", document)
            _send(path)
    return PlanFolder(path), changed


def _hand_over_names(root: Path, old: Iterable[PlannedRun], runs: Sequence[PlannedRun]) -> None:
    """Take from runs that are in the plan no more the names that `runs` ask for."""
    gone, known = {run.id for run in old} - {run.id for run in runs}, names(root)
    for name in (text.partition("=")[2] for run in runs for text in run.overrides if text.startswith("name=")):
        if known.get(name) in gone:
            RunFolder(root / known[name]).release_name(name)


def _refuse_other(
    plan: PlanFolder, runs: Sequence[PlannedRun], renew: bool = False
) -> dict[tuple[str, ...], PlannedRun]:
    """The stored runs by their words; `UserError` if some of them are not among `runs`. renew: starts may differ."""

    def asked(run: PlannedRun) -> tuple[str, ...]:
        return tuple(text for text in run.overrides if not (renew and text.startswith("start=")))

    old, words, ids = {run.overrides: run for run in plan.runs}, set(map(asked, runs)), {r.id for r in runs}
    if plan.begun and (lost := [run for run in old.values() if asked(run) not in words and run.id not in ids]):
        raise UserError(
            f"plan '{plan.name}' in {plan.root} is another one: {len(lost)} of its {len(old)} runs are not in this "
            f"plan (the first: {' '.join(lost[0].overrides)}); choose another name with --name"
        )
    return old


def check_plan(root: Path, plan: Plan, runs: Sequence[PlannedRun]) -> None:
    """Raise what `store_plan` would raise, and make nothing."""
    folder = PlanFolder(root / ".plans" / _checked_name(plan))
    if folder.path.exists():
        _refuse_other(folder, runs)


def _checked_name(plan: Plan) -> str:
    name = default_name(plan)
    if not NAME.fullmatch(name):
        raise UserError(f"plan name = {name}: expected up to 100 letters, digits and _ . -, not beginning with . or -")
    return name


def _write_runs(path: Path, runs: Sequence[PlannedRun]) -> None:
    write_text(path / "runs.jsonl", "".join(json.dumps(vars(run), ensure_ascii=False) + "\n" for run in runs))


def _send(path: Path) -> None:
    """Where the root is in object storage, other machines find the plan there."""
    root = path.parent.parent
    if (url := url_of(root)) is not None:
        from inlearn.runs.remote_store import RemoteStore

        store = RemoteStore(url)
        for name in ("plan.json", "runs.jsonl"):
            store.put(f".plans/{path.name}/{name}", (path / name).read_bytes())
