from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlearn.cli.common import RUNS, Root, say

if TYPE_CHECKING:
    from inlearn.sweeps.folder import PlanFolder
    from inlearn.sweeps.standing import Standing

REFRESH_SECONDS = 15.0  # how often a watched plan's runs in object storage are looked at
ROWS = 40  # a table of more rows shows those that are neither finished nor waiting


def complete_plans(incomplete: str) -> list[str]:
    import os

    from inlearn.runs.remote_root import open_root
    from inlearn.sweeps.folder import plans

    root = open_root(os.environ.get("INLEARN_RUNS", "runs"), refresh=False)
    return [plan.name for plan in plans(root) if plan.name.startswith(incomplete)]


def status(
    plan: Annotated[
        str | None, typer.Argument(metavar="[PLAN]", help="A plan's name, or its file.", autocompletion=complete_plans)
    ] = None,
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--once", help="Go on showing until everything is done (what a terminal gets), or not."),
    ] = None,
    every_run: Annotated[bool, typer.Option("--all", help="Show every run, however many there are.")] = False,
    runs: Root = RUNS,
) -> None:
    """How a plan stands, run by run; without a name, every plan in one line each."""
    from inlearn.cli.common import print_table
    from inlearn.core.errors import EnvironmentFault
    from inlearn.sweeps.folder import open_plan, plans
    from inlearn.sweeps.standing import count, standings

    if plan is None:
        known = plans(runs)
        rows = []
        for p in known:
            try:
                rows.append((p.name, p.document["study"], len(p.runs), count(standings(runs, p.runs))))
            except EnvironmentFault as fault:  # one damaged plan does not hide the others
                rows.append((p.name, None, None, f"damaged: {fault}"))
        print_table(("plan", "study", "runs", "states"), rows)
        return
    folder = open_plan(runs, plan)
    if watch or (watch is None and sys.stdout.isatty()):
        with contextlib.suppress(KeyboardInterrupt):
            _watch(folder, every_run)
        return
    found = standings(runs, folder.runs)
    columns, rows = _table(folder, found, every_run)
    print_table(columns, rows)
    say(f"plan {folder.name}: {len(found):,} runs: {count(found)}")


def _table(folder: PlanFolder, found: list[Standing], every_run: bool) -> tuple[list[str], list[tuple[Any, ...]]]:
    axes = list(dict.fromkeys(key for standing in found for key in standing.run.axes))
    results = folder.last_results()
    shown = found
    if len(found) > ROWS and not every_run:
        shown = [s for s in found if s.state not in ("finished", "planned")]
    rows = []
    for s in shown:
        last = results.get(s.run.id, {})  # that another process held it then says nothing of why it stands still now
        told = not s.done and s.state != "running" and last.get("state") != "busy"
        why = s.reason or (last.get("reason", "") if told else "")
        rows.append((s.run.id, *(s.run.axes.get(key) for key in axes), s.state, f"{s.step:,}/{s.run.last:,}", why))
    return ["run", *axes, "state", "step", "why"], rows


def _watch(folder: PlanFolder, every_run: bool) -> None:
    """Show the table anew every two seconds, until no run is left that may still change.

    Runs in object storage that are not done are looked at every quarter of a minute; an outage is told in the title.
    """
    from rich.console import Console
    from rich.live import Live

    from inlearn.cli.common import table_of
    from inlearn.runs.remote_pull import refresh_runs
    from inlearn.runs.remote_root import url_of
    from inlearn.runs.remote_store import PROBE_SECONDS, StorageFault
    from inlearn.sweeps.standing import count, standings

    remote, looked, problem = url_of(folder.root) is not None, time.monotonic(), ""
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = standings(folder.root, folder.runs)
            columns, rows = _table(folder, found, every_run)
            room = max(5, console.height - 6)
            title = f"plan {folder.name}: {count(found)}{problem}"
            live.update(table_of(columns, rows[:room], title), refresh=True)
            if all(s.done or s.state in ("failed", "damaged") for s in found):
                return
            time.sleep(2.0)
            if remote and time.monotonic() - looked >= REFRESH_SECONDS:
                try:
                    refresh_runs(folder.root, [s.run.id for s in found if not s.done], PROBE_SECONDS)
                    problem = ""
                except StorageFault as error:
                    problem = f" (as last seen: {error})"
                looked = time.monotonic()
