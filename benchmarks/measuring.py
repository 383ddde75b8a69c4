"""What every benchmark shares: fair timing, a table, the machine's description, the stored result."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from inlearn.core import device as devices
from inlearn.core.files import write_json

RESULTS = Path(__file__).parent / "results"


def fastest(steps: Mapping[str, Callable[[], object]], seconds: float, together: int = 1) -> dict[str, float]:
    """Least milliseconds of each step over interleaved rounds, so that a busy machine disturbs all alike.

    Steps are timed `together` at a time, so that what happens once in a while is paid for.
    """
    for step in steps.values():
        step()
    best = dict.fromkeys(steps, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(together):
                step()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3 / together)
    return best


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    texts = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *texts, strict=True)]
    for row in (columns, *texts):
        print("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


def machine() -> dict[str, Any]:
    import os

    return {
        "processor": devices.describe(torch.device("cpu")),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def store(name: str, content: Mapping[str, Any]) -> None:
    write_json(RESULTS / f"{name}.json", {"machine": machine(), **content})
