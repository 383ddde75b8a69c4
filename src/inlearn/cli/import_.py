from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inlearn.cli.common import Study, say


def import_(
    study: Study,
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Data of the system that the study was published in.")],
    out: Annotated[Path, typer.Option("--out", help="The file to write; it must not exist.")],
) -> None:
    """Turn published data into a file that a study can be trained on. Checked entry by entry; nothing in it is run."""
    from inlearn.lab import discovery

    discovery.study(study).config.import_file(source, out, say)
    print(out)
