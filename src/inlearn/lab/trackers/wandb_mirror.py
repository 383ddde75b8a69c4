"""What Weights & Biases hears of a run: its numbers by step, configuration, ideal learners, code, and report."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inlearn.core.errors import EnvironmentFault, UserError
from inlearn.core.files import read_json, write_json
from inlearn.lab.config import RunBase, Track
from inlearn.lab.logs import logger_of
from inlearn.lab.trackers.feed import Feed
from inlearn.lab.trackers.scalars import scalars
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines

if TYPE_CHECKING:
    from inlearn.training.loop import Outcome

FINISH_SECONDS = 120.0
LEAVE_SECONDS = 15.0
"""How long the end of a run waits for uploads; less where the machine is about to be taken away."""

MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": None}


def wandb_mode(track: Track, environment: Mapping[str, str]) -> str | None:
    """ "online", "offline" or None. Keys win over WANDB_MODE; without either only a W&B agent's runs are tracked."""
    if track.wandb != "auto":
        return MODES[track.wandb]
    asked = environment.get("WANDB_MODE") or ("online" if environment.get("WANDB_SWEEP_ID") else "disabled")
    if asked not in MODES:
        raise UserError(f"WANDB_MODE={asked}: expected online, offline or disabled")
    return MODES[asked]


class WandbMirror:
    """One W&B run for one of ours, by the same id; below a W&B agent, by the id that the agent gave.

    Rows are told apart by our own `step`, because W&B's only grows and a resumed run goes back to a checkpoint. What
    W&B has not heard yet of the steps up to `before` (an earlier process had no tracker, or lost it) is sent first.
    """

    def __init__(self, folder: RunFolder, config: RunBase, mode: str, before: int):
        self.folder, self.log = folder, logger_of(folder.path)
        place = folder.path / "wandb"
        agent = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        self.id = agent or folder.id
        self._heard = place / "heard.json"
        self._row: dict[str, Any] = {}
        heard = self._read_heard().get(self.id, -1)
        self.feed = Feed("inlearn.lab.trackers.wandb_process", place / "process.log", self._hear)
        self.feed.send(self._beginning(config, mode))
        for line in read_lines(folder.path / "metrics.jsonl"):
            if heard < line["step"] <= before:
                self.line(line)

    def _beginning(self, config: RunBase, mode: str) -> dict[str, Any]:
        document, track, source = self.folder.config, config.track, self.folder.path / "source.py"
        init = {
            "id": self.id,
            "project": track.project or os.environ.get("WANDB_PROJECT") or "inlearn",
            "entity": track.entity or os.environ.get("WANDB_ENTITY"),
            "name": config.name or os.environ.get("WANDB_NAME") or self.folder.id,
            "tags": list(config.tags) or None,
            "config": {"run": self.folder.id, **document["config"], "unhashed": document["unhashed"]},
            "dir": str(self.folder.path),
        }
        references: dict[str, float] = {}
        for line in read_lines(self.folder.path / "references.jsonl"):
            references |= scalars(line)
        return {
            "mode": mode,
            "init": init,
            "summary": references,
            "sources": [str(source)] if source.exists() else [],
            "program": sys.argv[0],
            "pid": os.getpid(),
        }

    def line(self, line: Mapping[str, Any]) -> None:
        """Everything of one step is one row: it leaves when the next step's first line comes."""
        if self._row and self._row["step"] != line["step"]:
            self._send_row()
        self._row = {"step": line["step"]} | self._row | scalars(line)

    def _send_row(self) -> None:
        if self._row:
            self.feed.send({"log": self._row})
            self._row = {}

    def checkpoint(self, step: int) -> None:
        self._send_row()
        self.feed.send({"mark": step})

    def end(self, outcome: Outcome) -> None:
        self._send_row()
        if outcome.state == "finished" and (report := self._report()):
            self.feed.send({"save": [report, "report.html"]})
        self.feed.send({"end": outcome.state})
        self.feed.close(LEAVE_SECONDS if outcome.state == "interrupted" else FINISH_SECONDS)

    def _report(self) -> str | None:
        from inlearn.lab.opened import Run

        try:
            return str(Run(RunFolder(self.folder.path)).report())
        except Exception as error:  # a study's own charts may fail in any way; the numbers are there
            self.log.warning("W&B gets no report of this run: %s", error)
            return None

    # ------------------------------------------------------------ what the process answers, in its thread

    def _hear(self, message: Mapping[str, Any]) -> None:
        if "warn" in message:
            self.log.warning("%s", message["warn"])
        elif "say" in message:
            self.log.info("%s", message["say"])
        elif "marked" in message:
            write_json(self._heard, self._read_heard() | {self.id: message["marked"]})

    def _read_heard(self) -> dict[str, int]:
        """The last checkpoint up to which each W&B run heard everything."""
        try:
            return read_json(self._heard)
        except (FileNotFoundError, EnvironmentFault):
            return {}
