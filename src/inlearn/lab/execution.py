"""What surrounds one process that works on a run: versions, log, signals, the machine's description."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch

import inlearn
from inlearn.core import device as devices


def segment(device: torch.device, threads: int, from_step: int, processes: int, parallel: str) -> dict[str, Any]:
    """What may differ between two starts of one run; bits are promised only where all of it is equal."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from_step": from_step,
        "engine": os.environ.get("INLEARN_ENGINE", "none"),  # what a sweep's engine tells its workers
        "device": str(device),
        "device_name": devices.describe(device),
        "threads": threads,
        "processes": processes,
        "parallel": parallel,
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "inlearn": inlearn.__version__,
        "commit": commit(),
        "command": sys.argv,
    }


BITS_DEPEND_ON = ("device", "device_name", "threads", "processes", "parallel", "torch")


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which ways a resumed run may differ in its last bits from an uninterrupted one."""
    return [f"{k}: {before.get(k)} before, {now[k]} now" for k in BITS_DEPEND_ON if before.get(k) != now[k]]


@cache
def commit() -> str | None:
    """The commit of the code, with "+changes" when the working tree differs; None outside a checkout."""
    here = Path(inlearn.__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", "__init__.py")
        changes = git("status", "--porcelain", "--untracked-files=no", ".")
        return (git("rev-parse", "HEAD") + ("+changes" if changes else "")) if tracked else None
    except (OSError, subprocess.CalledProcessError):
        return None


@contextlib.contextmanager
def run_log(path: Path, level: str) -> Iterator[logging.Logger]:
    """The logger `inlearn`, writing to run.log and to the console at `level`."""
    log = logging.getLogger("inlearn")
    log.setLevel(level.upper())
    log.propagate = False
    file, console = logging.FileHandler(path), logging.StreamHandler(sys.stderr)
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
