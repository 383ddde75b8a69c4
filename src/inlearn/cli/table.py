from __future__ import annotations

from typing import Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Root


def table(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="Over the views runs, training and evaluations.")],
    form: Annotated[
        Literal["table", "csv", "json", "markdown"], typer.Option("--as", help="How to print it.")
    ] = "table",
    runs: Root = RUNS,
) -> None:
    """Ask all runs at once: `inlearn table "select run, max(step), min(loss) from training group by run"`."""
    from inlearn.cli.common import number, print_table
    from inlearn.runs.query import query

    answer = query(runs, sql)
    if form == "csv":
        print(answer.to_csv(index=False), end="")
    elif form == "json":
        print(answer.to_json(orient="records", indent=1))
    elif form == "markdown":
        print("| " + " | ".join(answer.columns) + " |\n|" + " --- |" * len(answer.columns))
        for row in answer.itertuples(index=False):
            print("| " + " | ".join(number(value).replace("|", "\\|") for value in row) + " |")
    else:
        print_table(list(answer.columns), answer.itertuples(index=False))
