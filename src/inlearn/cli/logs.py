from __future__ import annotations

import time
from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, RunName


def logs(
    run: RunName,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many of the last lines.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run stops.")] = False,
    runs: Root = RUNS,
) -> None:
    """The last lines of a run's log."""
    from inlearn.core.errors import UserError
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.lease import lease_holder

    folder = RunFolder.open(runs, run)
    path = folder.path / "run.log"
    if not path.exists():
        raise UserError(f"run {folder.id} has no log yet")
    with path.open(errors="replace") as file:
        for line in file.readlines()[-lines:]:
            print(line, end="")
        while follow:
            if line := file.readline():
                print(line, end="", flush=True)
            elif lease_holder(folder.path) is None:
                return
            else:
                time.sleep(0.5)
