"""How many runs stand, quickly: one small file each; whether a writer lives is asked only of runs that are running."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from inlearn.core.errors import EnvironmentFault
from inlearn.runs.folder import ID, RunFolder, Status


def states(root: Path, ids: Sequence[str] | None = None) -> list[tuple[str, Status]]:
    """(id, status) of the runs below `root` by id, or of those of `ids` that have a folder, in that order.

    A run whose status cannot be read is "damaged", with the reason; it hides no other.
    """
    try:
        there = {name for name in os.listdir(root) if ID.fullmatch(name)}
    except (FileNotFoundError, NotADirectoryError):
        return []
    chosen = sorted(there) if ids is None else [id for id in ids if id in there]
    # Texts, not Path objects: for ten thousand runs these would cost more than the reading.
    return [(id, _status(f"{root}{os.sep}{id}")) for id in chosen]


def _status(folder: str) -> Status:
    try:
        with open(f"{folder}{os.sep}status.json", "rb") as file:
            status = Status(**json.loads(file.read()))
        return RunFolder(Path(folder)).status if status.state == "running" else status
    except FileNotFoundError:
        return Status("damaged", 0, f"{folder}: status.json is missing, this run folder is not whole")
    except (ValueError, TypeError, EnvironmentFault, OSError) as error:
        return Status("damaged", 0, f"{folder}: status.json is damaged: {error}")
