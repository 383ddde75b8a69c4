from __future__ import annotations

from typing import Annotated

import typer


def doctor(
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps or xla.")] = "auto",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Torch threads to use.")] = 1,
) -> None:
    """Check this machine: versions, threads, and the device's numbers against the CPU in float64."""
    from inlearn.cli.common import print_table
    from inlearn.lab.doctor import examine

    facts, checks = examine(device, threads)
    print_table(("what", "here"), facts)
    print_table(("check", "difference", "allowed", "fine"), checks)
    if not all(fine for *_, fine in checks):
        raise typer.Exit(1)
