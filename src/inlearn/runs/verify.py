"""`verify`: read every byte of a run that something vouches for, and say what is wrong."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from inlearn.core.configuration import digest
from inlearn.core.errors import EnvironmentFault
from inlearn.core.files import read_json, sha256
from inlearn.runs.checkpoints import CheckpointStore
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines
from inlearn.runs.trajectory import Trajectory

REQUIRED = ("config.json", "study.json", "status.json")
OPTIONAL = ("environment.json", "checkpoints/best.json")
LINES = ("metrics.jsonl", "references.jsonl", "checkpoints/warnings.jsonl")


def verify(run: RunFolder) -> list[str]:
    """One sentence a problem; an empty list means that all hashes, lengths and formats are right.

    Half a last line of metrics.jsonl is no problem: readers leave it out and resuming cuts it.
    """
    rows, trajectory = _trajectory(run)
    return [*_files(run), *_identity(run), *_checkpoints(run, rows), *trajectory]


def _files(run: RunFolder) -> Iterator[str]:
    for name in REQUIRED:
        if not (run.path / name).exists():
            yield f"{run.path / name} is missing"
    for name in (*REQUIRED, *OPTIONAL):
        try:
            if (run.path / name).exists():
                read_json(run.path / name)
        except EnvironmentFault as error:
            yield str(error)
    for name in LINES:
        try:
            read_lines(run.path / name)
        except EnvironmentFault as error:
            yield str(error)


def _identity(run: RunFolder) -> Iterator[str]:
    """The id is the digest of what was asked for; whoever edits config.json breaks that."""
    try:
        config = read_json(run.path / "config.json")
    except (FileNotFoundError, EnvironmentFault):  # told by `_files`
        return
    if re.fullmatch("[0-9a-f]{12}", run.path.name) and run.path.name != config["id"]:
        yield f"{run.path} holds the run {config['id']}"
    if digest(config["config"]) != config["id"]:
        yield f"{run.path / 'config.json'} was changed: its content has the id {digest(config['config'])}"
    source = config["config"].get("source")
    if source is not None and (not (run.path / "source.py").exists() or sha256(run.path / "source.py") != source):
        yield f"{run.path / 'source.py'} is not the study that the run was made with"


def _trajectory(run: RunFolder) -> tuple[int | None, list[str]]:
    """The number of rows, None if that cannot be known, and the problems."""
    path = run.path / "trajectory"
    if not (path / "layout.json").exists():
        lost = (path / "rows.jsonl").exists() or (path / "weights.f32").exists()
        return 0, [f"{path / 'layout.json'} is missing"] if lost else []
    try:
        trajectory = Trajectory.open(path)
        return trajectory.rows, trajectory.verify()
    except EnvironmentFault as error:
        return None, [str(error)]


def _checkpoints(run: RunFolder, rows: int | None) -> Iterator[str]:
    store = CheckpointStore(run.path)
    with contextlib.suppress(EnvironmentFault, FileNotFoundError):  # told by `_files`
        status, steps = run.status, store.steps()
        if status.step and (not steps or (status.state == "finished" and steps[-1] != status.step)):
            yield f"{store.path} holds no checkpoint of step {status.step}, which status.json says was reached"
    for step in store.steps(complete=False):
        try:
            store.load(step)
            lengths = store.manifest(step)["lengths"]
        except EnvironmentFault as error:
            yield str(error)
            continue
        for name, length in lengths.items():
            present, unit = (rows, "rows") if name == "trajectory" else (_size(run.path / name), "bytes")
            if present is not None and present < length:
                yield f"{run.path / name}: {present} {unit}, but checkpoint {step} was written after {length}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
