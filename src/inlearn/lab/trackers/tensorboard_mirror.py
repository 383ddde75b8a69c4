"""Event files for TensorBoard in `<run>/tensorboard/`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from inlearn.lab.trackers.scalars import scalars
from inlearn.runs.folder import RunFolder
from inlearn.runs.lines import read_lines

if TYPE_CHECKING:
    from inlearn.training.loop import Outcome


class TensorBoardMirror:
    """A new event file for each process that works on the run. It voids what a killed one wrote after `before`.

    A run whose earlier processes had no TensorBoard begins with their lines up to `before`.
    """

    def __init__(self, folder: RunFolder, before: int):
        from torch.utils.tensorboard import SummaryWriter

        place = folder.path / "tensorboard"
        goes_on = place.exists()
        self.writer = SummaryWriter(str(place), purge_step=before + 1 if goes_on else None)
        if goes_on:
            return
        config = json.dumps(folder.config["config"], indent=1)
        self.writer.add_text("config", "\n".join(f"    {line}" for line in config.splitlines()), 0)
        for line in read_lines(folder.path / "references.jsonl"):
            self.line({**line, "step": 0})
        for line in read_lines(folder.path / "metrics.jsonl"):
            if line["step"] <= before:
                self.line(line)

    def line(self, line: Mapping[str, Any]) -> None:
        for name, value in scalars(line).items():
            self.writer.add_scalar(name, value, line["step"])

    def checkpoint(self, step: int) -> None:
        self.writer.flush()

    def end(self, outcome: Outcome) -> None:
        self.writer.close()
