from __future__ import annotations

import typer

from inlearn.cli.common import RUNS, Root, RunName


def verify(run: RunName, runs: Root = RUNS) -> None:
    """Check every hash of a run: checkpoints, metrics, trajectory, and that its id is what it was asked to be."""
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.verify import verify as find_problems

    folder = RunFolder.open(runs, run)
    problems = find_problems(folder)
    for problem in problems:
        print(problem)
    if problems:
        raise typer.Exit(1)
    print(f"run {folder.id} is whole")
