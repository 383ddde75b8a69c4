"""What a run says while it is trained: to its run.log and to the console."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path


def logger_of(folder: Path) -> logging.Logger:
    """A run's own logger: one process may train several."""
    return logging.getLogger(f"inlearn.{folder.name}")


@contextlib.contextmanager
def run_log(folder: Path, level: str) -> Iterator[logging.Logger]:
    """The run's logger, writing to its run.log and to the console at `level`."""
    log = logger_of(folder)
    log.setLevel(level.upper())
    log.propagate = False
    file, console = logging.FileHandler(folder / "run.log"), logging.StreamHandler(sys.stderr)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    console.setFormatter(logging.Formatter("%(message)s"))
    for handler in (file, console):
        log.addHandler(handler)
    try:
        yield log
    finally:
        for handler in (file, console):
            log.removeHandler(handler)
            handler.close()
