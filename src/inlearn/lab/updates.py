"""What makes the updates of the runs of one process, and what their logs hear of it."""

from __future__ import annotations

from collections.abc import Collection

from inlearn.lab.sitting import Sitting
from inlearn.training.graphs import DeviceUpdates, Updated


def updates_of(sittings: Collection[Sitting], one: Updated) -> DeviceUpdates | None:
    """Updates as CUDA graphs, where these are asked for; else None, and `one` is compiled where that is asked for.

    `sittings` are those still going.
    """
    launch = next(iter(sittings)).launch
    if launch == "eager":
        return None

    def say(text: str) -> None:
        for sitting in sittings:
            sitting.log.info(text)

    def gave_up(reason: str) -> None:
        for sitting in sittings:
            sitting.log.warning("updates are not %s but eager: %s", launch, reason)
            sitting.folder.amend_segment(step="eager")

    if launch == "compiled":
        say("the first update compiles, which takes 20 to 60 seconds")
        return one.compile(gave_up)
    return DeviceUpdates(one, say, gave_up)
