"""A run is a folder `<root>/<id>`; this file makes, finds and lists them.

config.json       what was asked for, as given to `create`       written once
study.json        labels, units and formulas of the study        written once
status.json       state, step and reason                         replaced
source.py         a user's own study, where it was one           written once
environment.json  one execution segment for every process start  replaced
metrics.jsonl     the truth: every training and evaluation line  appended
references.jsonl  what the ideal learners score                  written once
checkpoints/      <step>/ folders, best.json, damaged/           see checkpoints.py
trajectory/       dense weights                                  see trajectory.py
analysis/  figures/  report.html  run.log                        made from the above
lease.json        who writes here now                            see lease.py
"""

from __future__ import annotations

import contextlib
import difflib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import (
    machine_faults,
    new_folder,
    read_json,
    remove_asides,
    write_bytes,
    write_json,
    write_text,
)
from inlearn.runs.lease import lease_holder
from inlearn.runs.locking import exclusive
from inlearn.runs.remote_root import shown

State = Literal["new", "running", "interrupted", "failed", "finished"]

ID = re.compile(r"[0-9a-f]{12}")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
PREFIX_LENGTH = 4  # the shortest beginning of an id that stands for it


@dataclass(frozen=True)
class Status:
    """`step` is that of the last update known; `reason` says why a run stopped."""

    state: State
    step: int = 0
    reason: str = ""


class RunFolder:
    """A run's folder: its files are read when asked for, so that a thousand folders cost one listing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    # ------------------------------------------------------------ making

    @staticmethod
    def create(
        root: Path,
        id: str,
        config: Mapping[str, Any],
        study: Mapping[str, Any],
        name: str | None = None,
        source: bytes | None = None,
    ) -> RunFolder:
        """Make `<root>/<id>`, or open it if it was made for the same configuration; give it `name` if there is one.

        `config` is stored as config.json, `study` as study.json, `source` (a user's own study) as source.py.
        Raises `UserError` if the folder belongs to another configuration (the message names the first key that
        differs) or the name to another run; nothing is made then.
        """
        path = root / id
        with _names_lock(root):
            if name is not None:
                _check_name(root, name, id)
            if path.exists():
                check_same(path, config, study)
            else:
                for left in root.glob(f".{id}.*.aside"):  # we hold the lock, so whoever made it was killed
                    shutil.rmtree(left)
                with new_folder(path) as aside:
                    write_json(aside / "config.json", config)
                    write_json(aside / "study.json", study)
                    write_json(aside / "status.json", vars(Status("new")))
                    if source is not None:
                        write_bytes(aside / "source.py", source)
            if name is not None:
                write_text(root / ".names" / name, id + "\n")
        return RunFolder(path)

    def claim_name(self, name: str) -> None:
        """Make `name` stand for this run below its root; `UserError` if it is malformed or another run's."""
        with _names_lock(self.path.parent):
            _check_name(self.path.parent, name, self.id)
            write_text(self.path.parent / ".names" / name, self.id + "\n")

    def release_name(self, name: str) -> None:
        """Make `name` stand for no run any more, if it stands for this one."""
        with _names_lock(self.path.parent):
            if names(self.path.parent).get(name) == self.id:
                (self.path.parent / ".names" / name).unlink()

    # ------------------------------------------------------------ finding

    @staticmethod
    def open(root: Path, reference: str) -> RunFolder:
        """The run that `reference` stands for: id, name, beginning of an id (4 digits or more), or path."""
        if ID.fullmatch(reference) and (root / reference / "config.json").exists():
            return RunFolder(root / reference)
        ids, named = [run.id for run in list_runs(root)], names(root)
        if named.get(reference) in ids:
            return RunFolder(root / named[reference])
        begun = [id for id in ids if len(reference) >= PREFIX_LENGTH and id.startswith(reference)]
        if len(begun) == 1:
            return RunFolder(root / begun[0])
        if len(begun) > 1:
            raise UserError(f"run '{reference}' is ambiguous: {', '.join(begun[:5])}{', …' if len(begun) > 5 else ''}")
        if (Path(reference) / "config.json").exists():
            return RunFolder(Path(reference).resolve())
        raise _no_such_run(root, reference, [*named, *ids])

    @cached_property
    def id(self) -> str:
        """12 hexadecimal digits; a folder that was copied under another name still knows its own."""
        return self.path.name if ID.fullmatch(self.path.name) else self.config["id"]

    @property
    def name(self) -> str | None:
        """The name given at the start if it was claimed for this run, else the first of its names, else None."""
        own = sorted(name for name, id in names(self.path.parent).items() if id == self.id)
        first = self.config.get("unhashed", {}).get("name")
        return first if first in own else next(iter(own), None)

    # ------------------------------------------------------------ reading and writing

    def _read(self, name: str) -> Any:
        try:
            return read_json(self.path / name)
        except FileNotFoundError:
            raise EnvironmentFault(f"{self.path / name} is missing: this run folder is not whole") from None

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._read("config.json")

    @cached_property
    def study(self) -> dict[str, Any]:
        return self._read("study.json")

    @property
    def status(self) -> Status:
        """As last written; a run that says it is running while nobody holds its lease was interrupted."""
        status = Status(**self._read("status.json"))
        if status.state == "running" and lease_holder(self.path) is None:
            return Status(
                "interrupted", status.step, "the process ended without a word: killed, or the machine stopped"
            )
        return status

    def set_status(self, state: State, step: int, reason: str = "") -> None:
        write_json(self.path / "status.json", vars(Status(state, step, reason)))

    @property
    def segments(self) -> list[dict[str, Any]]:
        """One entry for every process that worked on this run: device, threads, versions."""
        path = self.path / "environment.json"
        return read_json(path) if path.exists() else []

    def add_segment(self, segment: Mapping[str, Any]) -> None:
        """Call while holding the lease."""
        write_json(self.path / "environment.json", [*self.segments, segment])

    def amend_segment(self, **more: Any) -> None:
        """Add what is known only at a process's end to its segment, the last one."""
        *before, last = self.segments
        write_json(self.path / "environment.json", [*before, {**last, **more}])


def list_runs(root: Path) -> list[RunFolder]:
    """Every run below `root`, by id; reads one directory and no file."""
    if not root.is_dir():
        return []
    return [RunFolder(root / name) for name in sorted(path.name for path in root.iterdir() if ID.fullmatch(path.name))]


def names(root: Path) -> dict[str, str]:
    """Every claimed name and the id it stands for."""
    folder = root / ".names"
    if not folder.is_dir():
        return {}
    return {path.name: path.read_text().strip() for path in folder.iterdir() if NAME.fullmatch(path.name)}


# ---------------------------------------------------------------- what create and open refuse


@contextlib.contextmanager
def _names_lock(root: Path) -> Iterator[None]:
    """Making runs and naming them is done by one process at a time below a root."""
    with machine_faults(root):
        (root / ".names").mkdir(parents=True, exist_ok=True)
    with exclusive(root / ".names" / ".lock"):
        remove_asides(root / ".names")
        yield


def _check_name(root: Path, name: str, id: str) -> None:
    if not NAME.fullmatch(name):
        raise UserError(f"name = {name}: expected up to 100 letters, digits and _ . - beginning with none of . and -")
    if ID.fullmatch(name):
        raise UserError(f"name = {name}: expected something that does not read as a run's id (12 hexadecimal digits)")
    path = root / ".names" / name
    owner = path.read_text().strip() if path.exists() else id
    # The name of a run whose folder was deleted is free again.
    if owner != id and (root / owner).exists():
        raise UserError(f"name = {name}: already the name of run {owner}; choose another, or delete that run")


def check_same(path: Path, config: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Raise `UserError`, naming the first key that differs, unless the folder at `path` was made for this request."""
    if not (path / "config.json").exists():
        raise UserError(f"{path} exists and is not a run folder: it holds no config.json")
    stored = RunFolder(path)
    if stored.study["kind"] != study["kind"]:
        raise UserError(f"{path} belongs to study {stored.study['kind']}, not {study['kind']}")
    given = json.loads(json.dumps(config["config"]))  # as it would be stored: tuples are lists
    for key, old, new in differences(stored.config["config"], given):
        raise UserError(f"{path} belongs to another configuration: {key} is {old} there, {new} was asked for")


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Of two JSON documents: (dotted key, stored value, given value) where two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            inner = f"{key}.{name}" if key else name
            if name in old and name in new:
                yield from differences(old[name], new[name], inner)
            else:
                yield inner, _shown(old, name), _shown(new, name)
    elif old != new or type(old) is not type(new):
        yield key, json.dumps(old), json.dumps(new)


def _shown(tree: dict[str, Any], name: str) -> str:
    return json.dumps(tree[name]) if name in tree else "absent"


def _no_such_run(root: Path, reference: str, known: Iterable[str]) -> UserError:
    known = sorted(known)
    near = difflib.get_close_matches(reference, known, 3, 0.5)
    if not known:
        return UserError(f"no run '{reference}': there are no runs in {shown(root)}")
    return UserError(
        f"no run '{reference}' in {shown(root)}; {'nearest' if near else 'known'}: {', '.join(near or known[:8])}"
    )
