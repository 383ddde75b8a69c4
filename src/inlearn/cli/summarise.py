from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inlearn.cli.common import RUNS, Root, say
from inlearn.cli.status import complete_plans

if TYPE_CHECKING:
    from inlearn.reports.summaries import Read
    from inlearn.sweeps.many import Runs
    from inlearn.sweeps.readings import Asked
    from inlearn.sweeps.summarise import Summary


def summarise(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="A plan's name, or its file.", autocompletion=complete_plans)
    ],
    measure: Annotated[list[str] | None, typer.Option("--measure", help="loss and distance if none is named.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="Evaluation sets; the monitored if none.")] = None,
    by: Annotated[str, typer.Option("--by", help="Slices by a mark, such as position or gain,position.")] = "",
    step: Annotated[str, typer.Option("--step", help="common (the last that all share), last, best, or N.")] = "common",
    over: Annotated[list[str] | None, typer.Option("--over", help="Axes to average over; seeds if none.")] = None,
    pair: Annotated[
        str | None, typer.Option("--pair", help="KEY=A,B or KEY: paired differences along an axis.")
    ] = None,
    interval: Annotated[Literal["t", "bootstrap"], typer.Option("--interval", help="Student's t, or BCa.")] = "t",
    form: Annotated[
        Literal["table", "markdown", "csv", "latex", "json", "page"], typer.Option("--as", help="How to give it.")
    ] = "table",
    runs: Root = RUNS,
) -> None:
    """Mean, std, 95 % interval and n of every group of a plan's runs, and paired differences."""
    from inlearn.sweeps.many import open_runs
    from inlearn.sweeps.readings import Asked
    from inlearn.sweeps.summarise import summarise

    opened = open_runs(runs, plan)
    measures = tuple(measure or ("loss", "distance"))
    asked = Asked(measures, tuple(set or ()), by, _step(step), tuple(over or ()), pair, interval)
    summary = summarise(opened, asked)
    if form == "csv":
        print((summary.groups if pair is None else summary.differences).to_csv(index=False), end="")
    elif form == "json":
        print(_json(summary))
    elif form == "page":
        print(_page(opened, asked, summary, pair))
    else:
        _print(_tables(summary, pair), form, _words(summary))
    if form not in ("markdown", "latex", "page"):
        for note in _words(summary):
            say(note)


def _step(text: str) -> int | str:
    if text in ("common", "last", "best"):
        return text
    if not text.isdecimal():
        from inlearn.core.errors import UserError

        raise UserError(f"--step {text}: expected common, last, best or a number of updates")
    return int(text)


def _words(summary: Summary) -> list[str]:
    """What the numbers are of, and everything that is not in them."""
    groups = len(summary.groups.drop_duplicates(summary.axes)) if summary.axes else 1
    what = f"{groups:,} groups by {', '.join(summary.axes)}" if summary.axes else "one group"
    over = f", over {', '.join(summary.over)}" if summary.over else ", nothing to average over"
    return [f"{summary.name}: {what}{over}; {summary.at}", *summary.notes]


def _tables(summary: Summary, pair: str | None) -> list[Read]:
    from inlearn.reports.summaries import difference_tables, group_tables

    tables = group_tables(summary.groups, [*summary.axes, *summary.resolved], summary.marks, summary.at)
    if pair is not None:
        key = pair.partition("=")[0]
        axes = [axis for axis in summary.axes if axis != key]
        tables += difference_tables(summary.differences, key, axes, summary.marks)
    return tables


def _print(tables: list[Read], form: str, words: list[str]) -> None:
    from inlearn.cli.common import print_table
    from inlearn.reports.texts import latex, markdown

    if form == "table":
        for table in tables:
            print_table(table.columns, table.rows, table.title)
    elif form == "markdown":
        print("\n\n".join(f"**{table.title}**\n\n{markdown(table.columns, table.rows)}" for table in tables))
        print("\n" + "\n\n".join(words))
    else:
        print("\n".join(f"% {line}" for line in words))
        print("\n\n".join(latex(table.columns, table.rows, table.title) for table in tables))


def _json(summary: Summary) -> str:
    import json

    tables = {
        name: json.loads(table.to_json(orient="records", double_precision=15))
        for name, table in (("groups", summary.groups), ("differences", summary.differences))
    }
    head = {"plan": summary.name, "axes": summary.axes, "over": summary.over, "at": summary.at, "notes": summary.notes}
    return json.dumps(head | tables, indent=1, ensure_ascii=False)


def _page(opened: Runs, asked: Asked, summary: Summary, pair: str | None) -> str:
    from inlearn.reports.summaries import write_summary_page
    from inlearn.sweeps.folder import open_plan
    from inlearn.sweeps.summarise import curves

    path = open_plan(opened.root, opened.name).path / "summary.html"
    words, tables = "\n\n".join(_words(summary)), _tables(summary, pair)
    over_training = curves(opened, asked)
    return str(write_summary_page(path, opened.name, words, summary.axes, summary.groups, over_training, tables))
