"""Two cores: two workers of one thread against one run on two threads; and what memory allocators cost.

    python benchmarks/threads.py

Each row is a process of its own (two for "two workers"), because threads and allocators are chosen at its start. A
process makes steps of a regression model for a few seconds; the mean counts, for page faults come once in a while.
Allocators: glibc as it comes, with `keep_freed_memory` (what training uses), the same on huge pages, and jemalloc where
it is installed. Writes benchmarks/results/threads.json.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import subprocess
import sys
import time
from typing import Any

SECONDS = 4.0
CASES = (("7k", 32), ("52k", 256), ("206k", 256))
HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def work(size: str, batch: int, threads: int, keep: bool) -> None:
    """Print milliseconds a step, as a process started by `start`."""
    import torch
    from stacks import our_step

    from inlearn.core.device import keep_freed_memory

    torch.set_num_threads(threads)
    if keep:
        keep_freed_memory()
    step = our_step(size, batch, None)
    for _ in range(10):
        step()
    print("ready", flush=True)
    sys.stdin.readline()
    begin, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < SECONDS:
        step()
        count += 1
    print(json.dumps(passed * 1e3 / count), flush=True)


def start(size: str, batch: int, threads: int = 1, keep: bool = True, env: dict[str, str] | None = None) -> Any:
    words = [sys.executable, __file__, size, str(batch), str(threads), str(int(keep))]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | (env or {})
    return subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def together(processes: list[Any]) -> float:
    """Milliseconds a step of all of them, which run at the same time."""
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    spent = [json.loads(process.communicate()[0]) for process in processes]
    return 1 / sum(1 / each for each in spent)


def main() -> None:
    from measuring import print_table, store

    threads, allocators = {}, {}
    jemalloc = ctypes.util.find_library("jemalloc")
    for size, batch in CASES:
        name = f"{size}, batch {batch}"
        threads[name] = {
            "one thread": together([start(size, batch)]),
            "two threads": together([start(size, batch, threads=2)]),
            "two workers": together([start(size, batch), start(size, batch)]),
        }
        allocators[name] = {
            "glibc": together([start(size, batch, keep=False)]),
            "kept": threads[name]["one thread"],
            "kept, huge pages": together([start(size, batch, env=HUGE)]),
        }
        if jemalloc:
            allocators[name]["jemalloc"] = together([start(size, batch, keep=False, env={"LD_PRELOAD": jemalloc})])
    for table in (threads, allocators):
        columns = list(next(iter(table.values())))
        print_table(("ms a step", *columns), [(name, *row.values()) for name, row in table.items()])
    store("threads", {"threads": threads, "allocators": allocators})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bool(int(sys.argv[4])))
    else:
        main()
