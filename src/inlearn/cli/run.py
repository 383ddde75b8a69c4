from __future__ import annotations

from typing import Annotated

import typer

from inlearn.cli.common import RUNS, Overrides, Root, Study, print_path, say


def run(
    study: Study,
    overrides: Overrides = None,
    runs: Root = RUNS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the configuration and the run's id; train nothing.")
    ] = False,
) -> None:
    """Train a model: `inlearn run regression preset=demo seed=1`. A run that is there already is taken up."""
    if dry_run:
        _print_plan(study, overrides or [], runs)
        return
    from inlearn.lab.session import start

    made = start(study, overrides or [], runs, say)
    print_path(made.path)


def _print_plan(study: str, overrides: list[str], runs: Root) -> None:
    import yaml

    from inlearn.lab import discovery
    from inlearn.lab.build import build
    from inlearn.lab.request import request

    asked = request(discovery.study(study), overrides, runs, say)
    build(asked.config)
    print(yaml.safe_dump(asked.document, sort_keys=False).rstrip())
