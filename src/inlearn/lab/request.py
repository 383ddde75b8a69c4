"""One run as it is asked for, before anything is built: its configuration and its id. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlearn.core.errors import UserError
from inlearn.lab.config import RunBase, compose, identity, stored
from inlearn.lab.discovery import FoundStudy
from inlearn.runs.folder import ID, RunFolder
from inlearn.runs.remote_root import url_of


@dataclass(frozen=True)
class Request:
    """`document` is what config.json would hold; `parent` the checkpoint id@step that the run begins with, if any."""

    found: FoundStudy
    config: RunBase
    parent: str | None
    document: dict[str, Any]

    @property
    def id(self) -> str:
        return self.document["id"]


def request(
    found: FoundStudy, overrides: Sequence[str], root: Path, say: Callable[[str], None] = lambda text: None
) -> Request:
    """What `overrides` ask for, with runs looked up below `root`; `UserError` where that cannot be a run."""
    config = compose(found, overrides, say=say)
    parent = parent_reference(root, config.start) if config.start else None
    return Request(found, config, parent, stored(config, identity(config, found, parent)))


def split_reference(reference: str) -> tuple[str, str | None]:
    """RUN@STEP into (run, step or None)."""
    run, at, which = reference.rpartition("@")
    return (run, which) if at else (reference, None)


def parent_reference(root: Path, start: str) -> str:
    """The parent as the child's identity holds it, id@step. A step given as a number need not be there any more."""
    run, which = split_reference(start)
    folder = parent_folder(root, run)
    if which is not None and which.isdigit():
        return f"{folder.id}@{int(which)}"
    from inlearn.lab.start import resolve_step  # reads checkpoints, hence torch
    from inlearn.runs.checkpoints import CheckpointStore
    from inlearn.runs.remote_pull import bring

    bring(folder.path, which or "last")
    return f"{folder.id}@{resolve_step(CheckpointStore(folder.path), folder.id, which or 'last')}"


def parent_folder(root: Path, run: str) -> RunFolder:
    """The run that `run` stands for below `root`; of one in object storage that is not here, the small files come."""
    try:
        return RunFolder.open(root, run)
    except UserError:
        if url_of(root) is None:
            raise
    from inlearn.runs.remote_pull import refresh_root, refresh_runs

    if ID.fullmatch(run):
        refresh_runs(root, [run])
    else:  # a name, or the beginning of an id
        refresh_root(root)
    return RunFolder.open(root, run)
