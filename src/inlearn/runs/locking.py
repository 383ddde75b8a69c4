"""One writer at a time, for the moments in which several processes may want to change the same few files."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from inlearn.core.files import machine_faults


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[BinaryIO]:
    """Hold the lock file `path` (made if missing, never removed: a removed lock file would be two locks).

    The kernel gives the lock back when the holder dies, so a kill leaves nothing locked.
    """
    with machine_faults(path):
        file = path.open("ab")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
