"""What a user waits for besides training: `inlearn --help`, a checkpoint of 52k parameters with its optimiser.

    python benchmarks/small_costs.py

Writes benchmarks/results/small_costs.json.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import fastest, print_table, store

from inlearn.runs.checkpoints import Checkpoint, CheckpointStore

BARS = {"help": 400.0, "checkpoint without fsync": 5.0}


def main() -> None:
    torch.set_num_threads(1)
    weights = {f"weight.{i}": torch.randn(64, 64) for i in range(13)}
    moments = {name: torch.randn(53_248) for name in ("exp_avg", "exp_avg_sq")}
    real_fsync = os.fsync
    with tempfile.TemporaryDirectory() as folder:
        store_ = CheckpointStore(Path(folder))
        steps = iter(range(1, 1 << 30))

        def save() -> None:
            store_.save(Checkpoint(next(steps), weights, moments, {"step": 0}), {"metrics.jsonl": 0})

        def save_without_fsync() -> None:
            os.fsync = lambda handle: None
            try:
                save()
            finally:
                os.fsync = real_fsync

        best = fastest(
            {
                "help": lambda: subprocess.run(
                    [sys.executable, "-m", "inlearn.cli.main", "--help"], capture_output=True
                ),
                "checkpoint": save,
                "checkpoint without fsync": save_without_fsync,
            },
            8,
        )
    print_table(("what", "ms", "bar"), [(name, value, BARS.get(name, "-")) for name, value in best.items()])
    store("small_costs", {"ms": best, "bars": BARS})


if __name__ == "__main__":
    main()
