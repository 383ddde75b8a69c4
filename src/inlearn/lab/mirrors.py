"""What hears of everything that a run writes into its folder: trackers, and the folder's copy in object storage.

The folder is the truth. A mirror is told after the folder holds the thing, so it may copy files as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from inlearn.lab.config import RunBase
from inlearn.lab.object_storage import uploads_of
from inlearn.lab.trackers.choice import trackers_of
from inlearn.runs.folder import RunFolder
from inlearn.training.loop import Outcome


class Mirror(Protocol):
    """All calls come from the training process's main thread, in the order of the folder's own lines."""

    def line(self, line: Mapping[str, Any]) -> None:
        """A training or evaluation line, as in metrics.jsonl; lines after the last checkpoint may come again."""
        ...

    def checkpoint(self, step: int) -> None:
        """The checkpoint of `step` is whole in the folder, and metrics.jsonl is on disk up to it."""
        ...

    def end(self, outcome: Outcome) -> None:
        """This process has written its last byte into the folder, status.json included."""
        ...


def mirrors_of(folder: RunFolder, config: RunBase) -> list[Mirror]:
    """The mirrors that this run asks for, or that its root has. Trackers come first: their end may write a report."""
    return [*trackers_of(folder, config), *uploads_of(folder.path)]
