from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Root, say

if TYPE_CHECKING:
    import pandas as pd


def aggregate(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="The published project's results/ and checkpoints/training_logs/."),
    ],
    campaign: Annotated[
        str | None, typer.Option("--campaign", help="Put the groups of a campaign of ours beside them.")
    ] = None,
    each: Annotated[bool, typer.Option("--each", help="One row a run instead of one a group.")] = False,
    form: Annotated[
        Literal["table", "markdown", "csv", "json"], typer.Option("--as", help="How to give it.")
    ] = "table",
    runs: Root = RUNS,
) -> None:
    """Results of the automata project's own scripts, as JSON lies in a folder: mean, std, 95 % interval and n."""
    from inlearn.core.errors import UserError
    from inlearn.studies.automata.upstream import read

    if each and campaign is not None:
        raise UserError("--each lists the published project's runs; --campaign adds groups: expected one of them")
    found = read(folders)
    for note in found.notes:
        say(note)
    if not found.runs and campaign is None:
        say(f"nothing found in {', '.join(map(str, folders))}: no result of a finished run")
        return
    table = found.long if each else _with_ours(found.groups, campaign, runs)
    if form == "csv":
        print(table.to_csv(index=False), end="")
    elif form == "json":
        print(table.to_json(orient="records", indent=1, double_precision=15))
    else:
        _print(table, form)


def _with_ours(groups: pd.DataFrame, campaign: str | None, root: Path) -> pd.DataFrame:
    """The groups with a column for whose they are and one that marks those of few runs."""
    import pandas as pd

    from inlearn.core.errors import unknown
    from inlearn.sweeps.campaign import MINIMUM
    from inlearn.sweeps.campaign_table import mark

    table = groups.assign(source="published project")
    if campaign is not None:
        path = root / ".campaigns" / campaign / "groups.csv"
        if not path.is_file():
            raise unknown("campaign", campaign, [found.parent.name for found in root.glob(".campaigns/*/groups.csv")])
        ours = pd.read_csv(path)
        epochs = pd.read_csv(path.with_name("experiments.csv")).set_index("experiment")["epochs"]
        ours = ours[ours["learner"] == "model"].assign(source="inlearn")
        ours = ours.assign(epochs_to_90=ours["experiment"].map(epochs))
        table = pd.concat([table, ours.reindex(columns=table.columns)], ignore_index=True)
    return table.assign(mark=[mark(int(n), MINIMUM) for n in table["n"]])


def _print(table: pd.DataFrame, form: str) -> None:
    from inlearn.cli.common import print_table
    from inlearn.reports.texts import interval, markdown, plain, to_precision

    if "low" not in table:
        rows = [[plain(value) for value in row] for row in table.itertuples(index=False)]
        columns = list(table.columns)
    else:
        columns = ["experiment", "set", "measure", "mean", "std", "95 % interval", "n", "epochs to 90 %", "parameters"]
        columns += ["config", "source", "remark"]
        rows = []
        for row in table.to_dict("records"):
            half = (row["high"] - row["low"]) / 2
            numbers = [to_precision(row["mean"], half), to_precision(row["std"], row["std"])]
            numbers += [interval(row["low"], row["high"]), plain(row["n"]), plain(row["epochs_to_90"])]
            named = [row["experiment"], row["set"], row["measure"]]
            rows.append([*named, *numbers, plain(row["parameters"]), plain(row["config"]), row["source"], row["mark"]])
    if form == "markdown":
        print(markdown(columns, rows))
    else:
        print_table(columns, rows)
