"""The paper's regression model on a GPU: updates operation by operation, as CUDA graphs, and in stacks.

    python benchmarks/gpu.py            (`make bench-gpu`; a minute)

- eager: our update, each operation started by the host; batches are drawn on the CPU and copied
- compiled: the same with torch.compile(mode="reduce-overhead") around the loss
- graphs: the whole update as one graph, batches drawn on the card; solo, and stacks of 11 (the paper's seeds) and 64

Milliseconds a step and a member's step, the share of the card's measured matrix product, and the time that 500,000
steps of 11 seeds would take (goal: six minutes on one H200), at float32, TF32 and bfloat16. Steps are timed in blocks
that end with a synchronisation; the least block counts. Refuses where there is no CUDA device. Writes
benchmarks/results/gpu.json.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from measuring import print_table, store

from inlearn.lab import discovery
from inlearn.lab.build import Built, build, build_member, build_trainer
from inlearn.lab.config import compose
from inlearn.lab.roofline import hold, product_rate, step_cost
from inlearn.training.graphs import Alone, DeviceUpdates, Together, Updated
from inlearn.training.stack import Stack

STEPS, SEEDS, GOAL = 500_000, 11, 6.0  # of the published run; minutes
BLOCK, BLOCKS = 200, 5
ACCURACIES = {
    "float32": (),
    "tf32": ("execution.matmul=tf32",),
    "bfloat16": ("precision=bfloat16",),
}


def live(device: str, *more: str) -> Built:
    return build(compose(discovery.study("regression"), ["preset=paper-lr", f"device={device}", *more]))


def block_ms(advance: Callable[[int], None], wait: Callable[[], None]) -> float:
    """Least milliseconds of one update over several blocks."""
    advance(BLOCK)
    wait()
    best = float("inf")
    for _ in range(BLOCKS):
        start = time.perf_counter()
        advance(BLOCK)
        wait()
        best = min(best, (time.perf_counter() - start) * 1e3 / BLOCK)
    return best


def one_by_one(built: Built, compiled: bool) -> Callable[[int], None]:
    trainer = build_trainer(built)
    if compiled:
        trainer.parameters.loss = torch.compile(trainer.parameters.loss, mode="reduce-overhead")

    def advance(count: int) -> None:
        for _ in range(count):
            trainer.keep_losses(None)
            trainer.update(built.tasks[0])

    return advance


def as_graphs(one: Updated) -> Callable[[int], None]:
    updates = DeviceUpdates(one, print, lambda reason: sys.exit(f"no CUDA graph: {reason}"))

    def advance(count: int) -> None:
        end = one.members[0].progress.step + count
        for member in one.members:
            member.keep_losses(None)
        while (step := one.members[0].progress.step) < end:
            updates.advance(min(end - step, 50))  # a ring of losses has room for a training line's

    return advance


def stack_of(device: str, count: int, *more: str) -> Stack:
    builts = [live(device, f"seed={seed}", *more) for seed in range(count)]
    return Stack([build_member(built) for built in builts], builts[0].device, builts[0].config.precision)


def measured(device: str, accuracy: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    more = ACCURACIES[accuracy]
    built = live(device, *more)
    wait = (lambda: torch.cuda.synchronize()) if built.device.type == "cuda" else (lambda: None)
    trainer = build_trainer(built)
    flop = step_cost(trainer, hold(trainer, built.tasks[0])).total.flop
    rate = product_rate(built.device, built.config.precision)
    ways: dict[str, tuple[int, Callable[[], Callable[[int], None]]]] = {
        "eager": (1, lambda: one_by_one(built, False)),
        "compiled": (1, lambda: one_by_one(built, True)),
        "graphs": (1, lambda: as_graphs(Alone(build_trainer(built), built.tasks))),
        "graphs, stack of 11": (11, lambda: as_graphs(Together(stack_of(device, 11, *more)))),
        "graphs, stack of 64": (64, lambda: as_graphs(Together(stack_of(device, 64, *more)))),
    }
    found = []
    for name, (members, make) in ways.items():
        try:
            ms = block_ms(make(), wait)
        except Exception as error:  # of a compiler above all: the other ways are still worth their numbers
            say(f"{accuracy}, {name}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            continue
        found.append(
            {
                "accuracy": accuracy,
                "way": name,
                "ms": ms,
                "ms a member": ms / members,
                "share of products": members * flop / (ms / 1e3) / rate,
                "minutes of 500,000 steps, 11 seeds": -(-SEEDS // members) * STEPS * ms / 6e4,
            }
        )
    return found


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device; there is none here")
    torch.set_num_threads(1)
    rows = [row for accuracy in ACCURACIES for row in measured("cuda", accuracy, print)]
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    print(f"goal: {GOAL} minutes")
    store("gpu", {"card": torch.cuda.get_device_name(), "goal minutes": GOAL, "rows": rows})


if __name__ == "__main__":
    main()
