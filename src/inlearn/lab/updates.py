"""What makes the updates of the runs of one process, and what their logs hear of it."""

from __future__ import annotations

from collections.abc import Collection

from inlearn.lab.sitting import Sitting
from inlearn.training.graphs import DeviceUpdates, Updated


def updates_of(sittings: Collection[Sitting], one: Updated) -> DeviceUpdates | None:
    """Updates as CUDA graphs; None where they are started operation by operation. `sittings` are those still going."""
    if next(iter(sittings)).launch != "graphs":
        return None

    def say(text: str) -> None:
        for sitting in sittings:
            sitting.log.info(text)

    def gave_up(reason: str) -> None:
        for sitting in sittings:
            sitting.log.warning("no CUDA graph (%s): updates are started operation by operation", reason)
            sitting.folder.amend_segment(step="eager")

    return DeviceUpdates(one, say, gave_up)
