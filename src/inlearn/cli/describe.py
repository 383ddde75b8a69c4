from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlearn.cli.common import Overrides, Study, say


def describe(
    study: Study,
    overrides: Overrides = None,
    page: Annotated[Path | None, typer.Option("--page", help="Write a page with charts here as well.")] = None,
) -> None:
    """A study's data in numbers, and in charts with --page."""
    from inlearn.cli.common import print_table
    from inlearn.lab import discovery
    from inlearn.lab.build import build_study
    from inlearn.lab.config import compose

    config = compose(discovery.study(study), overrides or [], say=say)
    parts = list(build_study(config).describe())
    for title, content in parts:
        if isinstance(content, list) and content:
            print_table(list(content[0]), [list(row.values()) for row in content], title)
    if page is not None:
        from inlearn.lab.report import write_description

        print(write_description(page, study, parts))
