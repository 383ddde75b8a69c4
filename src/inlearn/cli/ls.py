from __future__ import annotations

from inlearn.cli.common import RUNS, Root


def ls(runs: Root = RUNS) -> None:
    """List the runs."""
    from inlearn.cli.common import print_table
    from inlearn.runs.folder import list_runs, names

    named = {id: name for name, id in names(runs).items()}
    rows = []
    for folder in list_runs(runs):
        status = folder.status
        seeds = folder.config["config"]["seeds"]
        rows.append(
            (
                folder.id,
                named.get(folder.id, ""),
                folder.study["kind"],
                folder.config["config"]["model"]["kind"],
                seeds["data"],
                f"{status.step:,}/{folder.config['config']['training']['steps']:,}",
                status.state,
                status.reason,
            )
        )
    print_table(("run", "name", "study", "model", "seed", "step", "state", "why"), rows)
