from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, complete_runs


def complete_analyses(incomplete: str) -> list[str]:
    from inlearn.lab import discovery

    return [kind for kind in discovery.analyses() if kind.startswith(incomplete)]


def complete_keys(ctx: typer.Context, incomplete: str) -> list[str]:
    from inlearn.lab import discovery
    from inlearn.lab.config import dotted_keys

    config = discovery.analyses().get(ctx.params.get("analysis") or "")
    return [] if config is None else sorted(f"{key}=" for key in dotted_keys(config) if key.startswith(incomplete))


def analyse(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@STEP]", help="A run, or its checkpoint: RUN@best, RUN@1000.", autocompletion=complete_runs
        ),
    ],
    analysis: Annotated[
        str, typer.Argument(metavar="ANALYSIS", help="What to do: probe.", autocompletion=complete_analyses)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Keys of the analysis: rows=500 activations=blocks.*.output",
            autocompletion=complete_keys,
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps or xla.")] = "cpu",
    runs: Root = RUNS,
) -> None:
    """Look inside a checkpoint: what can be read off its activations. Done once; results are kept with the run."""
    from inlearn.cli.common import print_table, say
    from inlearn.lab.analyse import analyse, asked_for
    from inlearn.lab.opened import Run
    from inlearn.lab.start import split_reference
    from inlearn.runs.folder import RunFolder

    asked_for(analysis, overrides or [])
    name, which = split_reference(run)
    checkpoint = Run(RunFolder.open(runs, name)).checkpoint(which or "last")
    done = analyse(checkpoint, analysis, overrides or [], device, say)
    for title, columns, rows in done.tables:
        print_table(columns, rows, f"run {checkpoint.run.id} at step {checkpoint.step:,}: {title}")
    print(done.path)
