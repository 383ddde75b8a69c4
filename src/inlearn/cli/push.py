from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, complete_runs, say


def push(
    run: Annotated[
        str, typer.Argument(metavar="RUN|PLAN", help="A run's name or id, or a plan's.", autocompletion=complete_runs)
    ],
    runs: Root = RUNS,
) -> None:
    """Send what uploads left behind: `inlearn push RUN --runs s3://bucket/lab`. Twice is as good as once."""
    from inlearn.core.errors import UserError
    from inlearn.lab.object_storage import push_run, unsent
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.remote_root import url_of
    from inlearn.sweeps.folder import plans

    url = url_of(runs)
    if url is None:
        raise UserError(f"--runs {runs}: expected a URL such as s3://bucket/prefix; a local folder has nowhere to go")
    plan = next((plan for plan in plans(runs) if plan.name == run), None)
    there = [r.id for r in plan.runs if (runs / r.id).exists()] if plan else [RunFolder.open(runs, run).id]
    for id in unsent(runs, there) if plan else there:
        push_run(runs, id, say)
        print(f"{url}/{id}")
