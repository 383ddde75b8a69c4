from __future__ import annotations

from inlearn.cli.common import RUNS, Overrides, Root, RunName, print_path, say


def resume(run: RunName, overrides: Overrides = None, runs: Root = RUNS) -> None:
    """Go on with an interrupted run, or further: `inlearn resume lr_seed1 training.until=20000`."""
    from inlearn.lab.session import resume as resume_run

    print_path(resume_run(run, overrides or [], runs, say).path)
