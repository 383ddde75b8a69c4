"""Arguments, completion and tables that several verbs share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def complete_studies(incomplete: str) -> list[str]:
    from inlearn.lab import discovery

    return [name for name in discovery.studies() if name.startswith(incomplete)]


def complete_runs(incomplete: str) -> list[str]:
    from inlearn.runs.folder import list_runs, names
    from inlearn.runs.remote_root import open_root

    root = open_root(os.environ.get("INLEARN_RUNS", "runs"), refresh=False)
    return [n for n in (*names(root), *(run.id for run in list_runs(root))) if n.startswith(incomplete)]


def complete_overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Keys of the run and its study; after `preset=`, the presets."""
    from inlearn.core.errors import UserError
    from inlearn.lab import config, discovery

    try:
        study = discovery.study(ctx.params.get("study") or "regression")
    except UserError:
        return []
    if incomplete.startswith("preset="):
        return [f"preset={name}" for name in study.presets if name.startswith(incomplete[7:])]
    keys = config.dotted_keys(config.run_config(study.config))
    keys |= {key.removeprefix("study.") for key in keys} | {"preset", *config.SHORT}
    return sorted(f"{key}=" for key in keys if key.startswith(incomplete))


def a_root(path: Path) -> Path:
    """The folder that holds the runs; for a URL, the local one that stands for it, its small files up to date."""
    from inlearn.runs.remote_root import open_root

    return open_root(path)


Study = Annotated[str, typer.Argument(help="A study's name, or a file of your own.", autocompletion=complete_studies)]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, id, or folder.", autocompletion=complete_runs)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Keys of the configuration: preset=demo model.width=64 seed=1; model.match_params=50000 picks the width.",
        autocompletion=complete_overrides,
        show_default=False,
    ),
]
Root = Annotated[
    Path,
    typer.Option(
        "--runs", envvar="INLEARN_RUNS", help="The folder that holds the runs, or s3://bucket/prefix.", callback=a_root
    ),
]
RUNS = Path("runs")


def say(text: str) -> None:
    """Progress and results in words, on stderr so that stdout stays a table or a path."""
    print(text, file=sys.stderr, flush=True)


def print_path(path: Path) -> None:
    """Where a run lies, on stdout. Of several processes that train one run (torchrun) the first says it."""
    if os.environ.get("RANK", "0") == "0":
        print(path)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table as wide as the terminal; unwrapped where the output is a file or a pipe."""
    from rich.console import Console

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 240
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table_of(columns, rows, title))


def table_of(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(columns):  # the first column names things: it is never cut or folded
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(number(value) for value in row))
    return table


def number(value: Any) -> str:
    """Four significant digits for reals, thousands separators for counts, a dash for nothing."""
    missing = value is None or type(value).__name__ in ("NAType", "NaTType")
    if missing or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
    return str(value)
