from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, complete_runs, say


def cancel(
    reference: Annotated[
        str, typer.Argument(metavar="PLAN|RUN", help="A plan's name, or a run's.", autocompletion=complete_runs)
    ],
    runs: Root = RUNS,
) -> None:
    """Ask a plan, or one run, to save and stop, wherever it is being carried out. The same command goes on later."""
    from inlearn.core.errors import UserError
    from inlearn.runs.folder import RunFolder
    from inlearn.runs.lease import ask_to_leave, lease_holder
    from inlearn.sweeps.cancel import cancel_plan
    from inlearn.sweeps.folder import plans

    known = sorted(plan.name for plan in plans(runs))
    if reference in known or reference.endswith((".yaml", ".yml")):
        say(cancel_plan(runs, reference))
        return
    try:
        folder = RunFolder.open(runs, reference)
    except UserError as error:
        raise UserError(f"{error}; plans: {', '.join(known[:8]) or 'none'}") from None
    holder = lease_holder(folder.path)
    if holder is None:
        raise UserError(f"run {folder.id} is not running: it is {folder.status.state}")
    ask_to_leave(folder.path)
    say(f"run {folder.id} on {holder['host']} (process {holder['pid']}) is asked to save and stop")
