"""How the runs of a plan stand, by their folders alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inlearn.runs.folder import RunFolder
from inlearn.runs.states import states
from inlearn.sweeps.planned import PlannedRun

State = Literal["planned", "new", "running", "interrupted", "failed", "finished", "damaged"]
ORDER: tuple[State, ...] = ("finished", "running", "interrupted", "new", "planned", "failed", "damaged")


@dataclass(frozen=True)
class Standing:
    """One run of a plan: its state ("planned" where it has no folder yet), its last step, and why it stopped."""

    run: PlannedRun
    state: State
    step: int = 0
    reason: str = ""

    @property
    def done(self) -> bool:
        """Finished, and not asked to go further than it went."""
        return self.state == "finished" and (self.step >= self.run.last or bool(self.reason))


def standings(root: Path, runs: Sequence[PlannedRun]) -> list[Standing]:
    """One for each of `runs`, in their order."""
    there = dict(states(root, [run.id for run in runs]))
    found = []
    for run in runs:
        status = there.get(run.id)
        found.append(
            Standing(run, "planned") if status is None else Standing(run, status.state, status.step, status.reason)
        )
    return found


def begun_alone(folder: Path) -> bool:
    """Whether the run has begun, and not as a member of a stack: it goes on in the form that it has."""
    segments = RunFolder(folder).segments
    return bool(segments) and segments[-1].get("form", "solo") == "solo"


def count(found: Sequence[Standing]) -> str:
    """ "12 finished, 2 running, 46 planned"."""
    states = Counter(standing.state for standing in found)
    return ", ".join(f"{states[state]:,} {state}" for state in ORDER if states[state])
