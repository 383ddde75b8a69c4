from __future__ import annotations

from typing import TYPE_CHECKING

from inlearn.cli.common import RUNS, Root, say

if TYPE_CHECKING:
    from inlearn.runs.folder import RunFolder


def ls(runs: Root = RUNS) -> None:
    """List the runs."""
    from inlearn.cli.common import print_table
    from inlearn.core.errors import EnvironmentFault
    from inlearn.runs.folder import list_runs, names
    from inlearn.runs.remote_root import shown

    named = {id: name for name, id in names(runs).items()}
    rows = []
    for folder in list_runs(runs):
        try:
            rows.append(_row(folder, named.get(folder.id, "")))
        except (EnvironmentFault, KeyError) as error:  # one damaged folder does not hide the others
            rows.append((folder.id, named.get(folder.id, ""), "", "", "", "", "damaged", str(error)))
    if not rows:
        say(f"no runs in {shown(runs)}")
    print_table(("run", "name", "study", "model", "seed", "step", "state", "why"), rows)


def _row(folder: RunFolder, name: str) -> tuple[str, ...]:
    status, asked = folder.status, folder.config["config"]
    progress = f"{status.step:,}/{asked['training']['steps']:,}"
    seed = str(asked["seeds"]["data"])
    return (folder.id, name, folder.study["kind"], asked["model"]["kind"], seed, progress, status.state, status.reason)
