"""Asking a plan to stop: its coordinators, the jobs that wait in a scheduler, the runs that are being trained."""

from __future__ import annotations

from pathlib import Path

from inlearn.runs.lease import ask_to_leave, lease_holder
from inlearn.sweeps.folder import open_plan
from inlearn.sweeps.standing import standings


def cancel_plan(root: Path, name: str) -> str:
    """Ask, and say in one sentence what was asked. Every run saves first; nothing is lost."""
    plan = open_plan(root, name)
    plan.ask_to_leave()
    running = [s.run.id for s in standings(root, plan.runs) if s.state == "running" and lease_holder(root / s.run.id)]
    for id in running:
        ask_to_leave(root / id)
    queued = 0
    if (plan.path / "slurm" / "jobs.json").exists():
        from inlearn.sweeps.engines.slurm import cancel

        queued = cancel(plan.path)
    more = f" and {queued} Slurm jobs" if queued else ""
    return f"plan {plan.name}: {len(running)} running runs{more} are asked to save and stop; no other will begin"
