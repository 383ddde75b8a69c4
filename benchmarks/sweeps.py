"""What a sweep costs beside its training: planning, the local engine's overhead, what a second worker gives.

    python benchmarks/sweeps.py [--small]

Writes benchmarks/results/sweeps.json (not with --small, which only shows that everything works).

planning    Wall seconds of a fresh process that imports no torch, from `python` to the stored plan: expansion, the
            configuration and id of each of 10,000 runs, their states, and runs.jsonl. Of three the least.
overhead    200 runs of one step on two workers: (wall × workers − the same runs done by `start`, one after the other in
            one process that has done one before) / 200. What a worker's start costs is in it. `all of it` is wall ×
            workers / 200: the run itself and everything around it.
scaling     24 independent runs of 1.5 s: wall on one worker / wall on two, workers' starts included. The
            ideal is below 2 where two busy cores are slower than one; `two processes` is that bound, measured with the
            same runs in bare processes that share nothing.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

BARS = {
    "planning 10,000 runs, s": 3.0,
    "overhead of a trivial run, s": 0.3,
    "two workers over one": 1.8,
}
SEEDS, TRIVIAL, SMALL = 125, 200, 24

TINY = (
    "task.dimension=2",
    "task.examples=3",
    "model.width=16",
    "model.layers=1",
    "model.heads=2",
    "training.batch=16",
    "evaluation.rows=64",
    "evaluation.gain_rows=8",
)
ONE_STEP = (*TINY, "training.steps=1")
INDEPENDENT = (
    "model.width=32",
    "model.layers=2",
    "model.heads=2",
    "training.batch=64",
    "training.steps=150",
    "evaluation.rows=256",
    "evaluation.gain_rows=8",
)


def plan_them(root: str, seeds: str) -> None:
    """Runs in a process of its own: 80 × `seeds` runs, planned and stored."""
    from inlearn.sweeps.folder import store_plan
    from inlearn.sweeps.plan import Plan, with_overrides
    from inlearn.sweeps.planned import planned
    from inlearn.sweeps.standing import count, standings

    axes = ["task.count=powers(2,0,18),inf", "training.rate=1e-4,3e-4,1e-3,3e-3", f"seed=range({seeds})"]
    plan = with_overrides(Plan(study="regression", name="planning"), axes)
    runs, _ = planned(plan, Path(root))
    print(count(standings(Path(root), store_plan(Path(root), plan, runs)[0].runs)))
    assert "torch" not in sys.modules


def planning(seeds: int) -> float:
    best = float("inf")
    for _ in range(3):
        with tempfile.TemporaryDirectory() as root:
            began = time.perf_counter()
            command = [sys.executable, __file__, "plan", root, str(seeds)]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            best = min(best, time.perf_counter() - began)
        assert told.strip() == f"{80 * seeds:,} planned", told
    return best


def swept(overrides: Sequence[str], count: int, workers: int) -> float:
    """Wall seconds of the local engine for `count` seeds of one run."""
    from inlearn.sweeps.coordinate import carry_out
    from inlearn.sweeps.engines.config import LocalConfig
    from inlearn.sweeps.folder import store_plan
    from inlearn.sweeps.plan import Plan, with_overrides
    from inlearn.sweeps.planned import planned

    with tempfile.TemporaryDirectory() as root:
        plan = with_overrides(Plan(study="regression", name="swept"), [*overrides, f"seed=range({count})"])
        folder, _ = store_plan(Path(root), plan, planned(plan, Path(root))[0])
        began = time.perf_counter()
        summary = carry_out(folder, LocalConfig(workers=workers, stack="none"), lambda text: None)
        wall = time.perf_counter() - began
        assert len(summary.of("finished")) == count, summary
        return wall


def one_after_the_other(overrides: Sequence[str], seeds: Sequence[int]) -> float:
    """Wall seconds of the same runs in this process, which is warm."""
    from inlearn.lab.session import start

    with tempfile.TemporaryDirectory() as root, silent():
        start("regression", [*overrides, "seed=1000000"], Path(root), lambda text: None)
        began = time.perf_counter()
        for seed in seeds:
            start("regression", [*overrides, f"seed={seed}"], Path(root), lambda text: None)
        return time.perf_counter() - began


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Runs write their log to stderr; workers' goes to files."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def in_processes(count: int, overrides: Sequence[str], seeds: Sequence[int]) -> float:
    """The longest of `count` bare processes that share `seeds`; their starts are not counted."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(count)
    with context.Pool(count, _wait_for_all, (together,)) as pool:
        shares = [pool.apply_async(_share, (overrides, seeds[n::count])) for n in range(count)]
        return max(share.get() for share in shares)


def _wait_for_all(together: object) -> None:
    globals()["TOGETHER"] = together


def _share(overrides: Sequence[str], seeds: Sequence[int]) -> float:
    import torch

    torch.set_num_threads(1)
    one_after_the_other(ONE_STEP, [0])
    TOGETHER.wait()  # noqa: F821  set by the pool's initializer
    return one_after_the_other(overrides, seeds)


def least(measured: Callable[[], float], times: int) -> float:
    return min(measured() for _ in range(times))


def main(small: bool) -> None:
    import torch
    from measuring import print_table, store

    torch.set_num_threads(1)
    seeds, trivial, independent, times = (2, 8, 2, 1) if small else (SEEDS, TRIVIAL, SMALL, 2)
    plans = planning(seeds)
    wall = least(lambda: swept(ONE_STEP, trivial, 2), times)
    alone = least(lambda: one_after_the_other(ONE_STEP, range(trivial)), times)
    begin = least(lambda: swept(ONE_STEP, 2, 2), times)
    one, two = (least(lambda n=n: swept(INDEPENDENT, independent, n), times) for n in (1, 2))
    bare_one, bare_two = (in_processes(n, INDEPENDENT, range(independent)) for n in (1, 2))
    found = {
        "planning 10,000 runs, s": plans,
        "overhead of a trivial run, s": (wall * 2 - alone) / trivial,
        "a trivial run, all of it, s": wall * 2 / trivial,
        "a trivial run in a warm process, s": alone / trivial,
        "two workers' start and a run each, s": begin,
        "two workers over one": one / two,
        "two processes over one": bare_one / bare_two,
        "wall of one worker, s": one,
        "wall of two workers, s": two,
    }
    print_table(("what", "found", "bar"), [(name, value, BARS.get(name, "-")) for name, value in found.items()])
    if not small:
        store("sweeps", {"found": found, "bars": BARS, "runs": {"trivial": trivial, "independent": independent}})


if __name__ == "__main__":
    if sys.argv[1:2] == ["plan"]:
        plan_them(*sys.argv[2:])
    else:
        main("--small" in sys.argv)
