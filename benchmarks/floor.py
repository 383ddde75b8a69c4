"""A training step against the loop most people would write, and against the least time this machine could take.

    python benchmarks/floor.py

- ours: the trainer's own update, as `inlearn run` makes it for the preset's many steps: compiled on a CPU
- uncompiled: the same, operation by operation, as for short runs
- eager: the obvious loop for the same model (benchmarks/literal.py)
- floor: FLOP that must be computed / FLOP/s of the best square product, or the bytes that must move / bytes/s of a
  copy, whichever is longer; both rates are measured here, before and after the steps (docs/guides/performance.md)

The headline preset of every study on one and on two threads, and on a GPU where there is one; small sizes on one
thread. Rounds of sixteen steps are interleaved; the least time of each is kept. Writes benchmarks/results/floor.json.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from literal import literal_step
from measuring import fastest, print_table, store

from inlearn.lab import discovery
from inlearn.lab.build import build, build_trainer
from inlearn.lab.config import compose
from inlearn.lab.roofline import copy_rate, hold, product_rate, step_cost
from inlearn.training.trainer import Trainer

TOGETHER = 16  # ours draws sixteen steps at once
GOALS = {"headline": {"eager / ours": 1.3, "floor / ours": 0.45}, "small": {"eager / ours": 2.0}}


@dataclass(frozen=True)
class Case:
    """What `inlearn run` is asked for, and the obvious loop for it: `eager(device)` gives a step."""

    name: str
    study: str
    overrides: tuple[str, ...]
    eager: Callable[[str], Callable[[], object]]
    kind: str = "headline"
    threads: tuple[int, ...] = field(default=(1, 2))


# A later study adds its row here.
HEADLINES = (
    Case("regression paper-lr", "regression", ("preset=paper-lr",), lambda device: literal_step(256, device=device)),
    Case(
        "regression paper-lr, batch 1,024",
        "regression",
        ("preset=paper-lr", "training.batch=1024"),
        lambda device: literal_step(1024, device=device),
    ),
)
SMALL = (
    *(
        Case(
            f"regression paper-lr, batch {rows}",
            "regression",
            ("preset=paper-lr", f"training.batch={rows}"),
            lambda device, rows=rows: literal_step(rows, device=device),
            "small",
            (1,),
        )
        for rows in (16, 32)
    ),
    Case(
        "regression, one layer of 32, batch 16",
        "regression",
        ("preset=main-lr", "model.width=32", "model.mlp=32", "model.layers=1", "model.heads=2", "training.batch=16"),
        lambda device: literal_step(16, examples=16, width=32, layers=1, heads=2, device=device),
        "small",
        (1,),
    ),
)


def measured(case: Case, device: str, threads: int, seconds: float) -> dict[str, Any]:
    """Milliseconds of each, the floor's parts, and the ratios, of one case on one device."""
    words = (*case.overrides, f"execution.threads={threads}", f"execution.device={device}")
    config = compose(discovery.study(case.study), words)
    built = build(config)  # which sets the threads
    trainer, ours, task = build_trainer(built), build_trainer(built), built.tasks[0]
    eager = case.eager(device)
    if built.device.type == "cpu":
        ours.compile(lambda why: sys.exit(f"could not be compiled: {why}"))
    cost = step_cost(trainer, hold(trainer, task))

    def updates(by: Trainer) -> Callable[[], None]:
        def update() -> None:
            by.keep_losses(None)  # as after a training line
            by.update(task)

        return update

    def rounds(step: Callable[[], object]) -> Callable[[], None]:
        def sixteen() -> None:
            for _ in range(TOGETHER):
                step()
            if built.device.type == "cuda":
                torch.cuda.synchronize(built.device)

        return sixteen

    def rates() -> tuple[float, float]:
        return product_rate(built.device, config.precision), copy_rate(built.device, cost.compulsory)

    before = rates()
    steps = {"ours": updates(ours), "uncompiled": updates(trainer), "eager": eager}
    spent = fastest({name: rounds(step) for name, step in steps.items()}, seconds)
    product, copy = (max(pair) for pair in zip(before, rates(), strict=True))
    ms = {name: value / TOGETHER for name, value in spent.items()} | {"floor": cost.floor(product, copy) * 1e3}
    return {
        "case": case.name,
        "kind": case.kind,
        "parameters": trainer.count,
        "device": device,
        "threads": threads,
        "ms": ms,
        "FLOP": cost.total.flop,
        "compulsory bytes": cost.compulsory,
        "measured FLOP/s": product,
        "measured bytes/s": copy,
        "eager / ours": ms["eager"] / ms["ours"],
        "eager / uncompiled": ms["eager"] / ms["uncompiled"],
        "floor / ours": ms["floor"] / ms["ours"],
        "floor / eager": ms["floor"] / ms["eager"],
    }


def main() -> None:
    found = [measured(case, "cpu", threads, 8) for case in (*HEADLINES, *SMALL) for threads in case.threads]
    if torch.cuda.is_available():
        found += [measured(case, "cuda", 1, 8) for case in (*HEADLINES, *SMALL)]
    columns = ("case", "device", "threads", "parameters")
    ratios = ("eager / ours", "eager / uncompiled", "floor / ours", "floor / eager")
    rows = [(*(x[c] for c in columns), *x["ms"].values(), *(x[r] for r in ratios)) for x in found]
    print_table((*columns, "ours ms", "uncompiled ms", "eager ms", "floor ms", *ratios), rows)
    print(f"goals: {GOALS}")
    card = {"card": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    store("floor", {**card, "load average at the end": os.getloadavg()[0], "goals": GOALS, "cases": found})


if __name__ == "__main__":
    main()
