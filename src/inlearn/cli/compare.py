from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Root, complete_runs


def compare(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Two runs or more.", autocompletion=complete_runs)
    ],
    page: Annotated[Path, typer.Option("--page", help="Where to write the page.")] = Path("comparison.html"),
    runs: Root = RUNS,
) -> None:
    """Compare runs: which keys differ, where each ends, and their curves together on one page."""
    from inlearn.cli.common import print_table
    from inlearn.core.errors import UserError
    from inlearn.lab.opened import Run
    from inlearn.lab.report import differing_keys, final_numbers, write_comparison
    from inlearn.runs.folder import RunFolder

    opened = [Run(RunFolder.open(runs, name)) for name in names]
    if len({run.id for run in opened}) < 2:
        raise UserError("compare needs at least two different runs")
    keys = differing_keys(opened)
    print_table(
        ("key", *(run.folder.name or run.id for run in opened)), [(k, *v) for k, v in keys.items()], "what differs"
    )
    numbers = final_numbers(opened)
    print_table(list(numbers.columns), numbers.itertuples(index=False), "at the last evaluation")
    print(write_comparison(page, opened))
