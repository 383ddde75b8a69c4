"""What this machine offers to workers. Imports torch only where there is a card."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

MEBIBYTE = 1 << 20


def cards() -> list[str]:
    """cuda:0, cuda:1, … ; nothing is imported on a machine without a card."""
    if shutil.which("nvidia-smi") is None:
        return []
    import torch

    return [f"cuda:{n}" for n in range(torch.cuda.device_count())]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(kind: str) -> int | None:
    """Bytes that are free: of the fullest card for "cuda", of the machine for "cpu"; None where nobody says."""
    return _free_on_cards() if kind == "cuda" else _free_here() if kind == "cpu" else None


def _free_on_cards() -> int | None:
    # Asked of the driver: torch would make a context on the card, which keeps half a gigabyte of it.
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
        return min(int(line) for line in told.split()) * MEBIBYTE
    return None


def _free_here() -> int | None:
    """What the kernel calls available, and no more than a container may still take."""
    free = None
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/meminfo") as info:
        free = int(next(line for line in info if line.startswith("MemAvailable")).split()[1]) * 1024
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        free = limit if free is None else min(free, limit)
    return free
