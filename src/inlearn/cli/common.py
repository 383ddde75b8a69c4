"""Arguments, completion and tables that several verbs share."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer


def complete_studies(incomplete: str) -> list[str]:
    from inlearn.lab import discovery

    return [name for name in discovery.studies() if name.startswith(incomplete)]


def complete_runs(incomplete: str) -> list[str]:
    import os

    from inlearn.runs.folder import list_runs, names

    root = Path(os.environ.get("INLEARN_RUNS", "runs"))
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


def a_folder(path: Path) -> Path:
    """Refuse a runs folder that is a file, before a verb trips over it."""
    if path.exists() and not path.is_dir():
        from inlearn.core.errors import UserError

        raise UserError(f"--runs {path}: expected a folder, found a file")
    return path


Study = Annotated[str, typer.Argument(help="A study's name, or a file of your own.", autocompletion=complete_studies)]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name, id, or folder.", autocompletion=complete_runs)
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", autocompletion=complete_overrides, show_default=False)
]
Root = Annotated[
    Path,
    typer.Option("--runs", envvar="INLEARN_RUNS", help="The folder that holds the runs.", callback=a_folder),
]
RUNS = Path("runs")


def say(text: str) -> None:
    """Progress and results in words, on stderr so that stdout stays a table or a path."""
    print(text, file=sys.stderr, flush=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table as wide as the terminal; unwrapped where the output is a file or a pipe."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(columns):  # the first column names things: it is never cut or folded
        table.add_column(name, no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(number(value) for value in row))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 240
    Console(width=width, soft_wrap=not sys.stdout.isatty()).print(table)


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
