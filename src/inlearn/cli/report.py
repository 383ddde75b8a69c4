from __future__ import annotations

from inlearn.cli.common import RUNS, Root, RunName


def report(run: RunName, runs: Root = RUNS) -> None:
    """Write a run's report: one page that needs no network, and its charts as SVG."""
    from inlearn.lab.opened import Run
    from inlearn.runs.folder import RunFolder

    print(Run(RunFolder.open(runs, run)).report())
