from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, complete_runs


def evaluate(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN[@STEP]", help="A run, or its checkpoint: RUN@best, RUN@1000.", autocompletion=complete_runs
        ),
    ],
    sets: Annotated[
        str | None, typer.Option("--sets", help="Evaluation sets, separated by commas; `all` for every one.")
    ] = None,
    slices: Annotated[
        bool, typer.Option("--slices", help="Also print the numbers by position and other marks.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, mps or xla.")] = "cpu",
    runs: Root = RUNS,
) -> None:
    """Evaluate a checkpoint beside the ideal learners, on the monitored sets or on those you name."""
    from inlearn.cli.common import print_table
    from inlearn.lab.opened import Run
    from inlearn.lab.start import split_reference
    from inlearn.runs.folder import RunFolder

    name, which = split_reference(run)
    opened = Run(RunFolder.open(runs, name))
    chosen = None if sets is None else list(opened.study.tasks) if sets == "all" else sets.split(",")
    checkpoint = opened.checkpoint(which or "last")
    lines = checkpoint.evaluate(chosen, device)
    rows = []
    for line in lines:
        if line["by"] and not slices:
            continue
        for level, mean, se in zip(line["at"], line["mean"], line["se"], strict=True):
            where = ", ".join(f"{mark} {value}" for mark, value in zip(line["by"], level, strict=True))
            rows.append(
                (line["set"], line["learner"], line["measure"], line["reference"], where, mean, se, line["unit"])
            )
    columns = ("set", "learner", "measure", "reference", "at", "mean", "se", "unit")
    print_table(columns, rows, f"run {opened.id} at step {checkpoint.step:,}")
