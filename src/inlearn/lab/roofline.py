"""What this machine does at most, measured, and the least time in which it can make a step.

The roofline of Williams, Waterman and Patterson (2009): no step is quicker than its FLOP at the rate of the best matrix
product, nor than the bytes it must move at the rate of a copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from inlearn.core.contract import Task
from inlearn.core.draws import Address
from inlearn.training.costs import Cost, OperatorCounter, compulsory_bytes
from inlearn.training.stopwatch import HeldTask
from inlearn.training.trainer import Trainer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}  # of matrix products
MEMORY = 1 << 28  # bytes that no cache holds
LAUNCHES = 256


# ---------------------------------------------------------------- what a step needs


@dataclass(frozen=True)
class StepCost:
    """One step without the making of its batch: what was dispatched, by operator, and the bytes that must move."""

    operators: Mapping[str, Cost]
    compulsory: int

    @property
    def total(self) -> Cost:
        return sum(self.operators.values(), Cost())

    @property
    def moving(self) -> int:
        """Operators that read or write anything: all but views and allocations."""
        return sum(cost.moving for cost in self.operators.values())

    def floor(self, product_rate: float, copy_rate: float) -> float:
        """The least seconds: the larger of FLOP / FLOP/s and compulsory bytes / bytes/s.

        What the model leaves out is not counted: in the last layer queries, MLP and head at positions where nothing is
        scored, and gradients of inputs. Elementwise arithmetic and everything that a cache could keep is free.
        """
        return max(self.total.flop / product_rate, self.compulsory / copy_rate)


def hold(trainer: Trainer, task: Task) -> HeldTask:
    """`task` reduced to the batch of the trainer's next step."""
    batch = task.sample(Address(trainer.seeds, "data", trainer.progress.step), trainer.training.batch)
    return HeldTask(task, batch.to(trainer.device))


def step_cost(trainer: Trainer, held: HeldTask) -> StepCost:
    """Count one update, which is made. Afterwards the optimiser has its moments."""
    with OperatorCounter() as counter:
        trainer.update(held)
    return StepCost(counter.costs, compulsory_bytes(trainer.parameters.trained, trainer.optimiser, held.batch))


# ---------------------------------------------------------------- what the machine can do


def least_seconds(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """The least time of `call` over about `seconds` of trying, after a first call that is not timed."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    call()
    wait()
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        call()
        wait()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best


def product_rate(device: torch.device, precision: str, seconds: float = 0.6) -> float:
    """FLOP/s of the best square matrix product, at the precision and the threads that are set."""
    best, sizes = 0.0, (2048, 4096, 8192) if device.type == "cuda" else (256, 512, 1024)
    for n in sizes:
        a = torch.ones(n, n, dtype=DTYPES[precision], device=device)
        b, out = torch.ones_like(a), torch.empty_like(a)
        took = least_seconds(lambda: torch.mm(a, b, out=out), device, seconds / len(sizes))  # noqa: B023
        best = max(best, 2 * n**3 / took)
    return best


def copy_rate(device: torch.device, touched: int = MEMORY, seconds: float = 0.3) -> float:
    """Bytes/s, read and written, of copying one half of `touched` bytes to the other: small ones stay in a cache."""
    count = max(1, touched // 8)
    source, target = torch.ones(count, device=device), torch.zeros(count, device=device)
    return 8 * count / least_seconds(lambda: target.copy_(source), device, seconds)


def launch_cost(device: torch.device, seconds: float = 0.2) -> float:
    """Seconds of an operator that has nothing to do: the mean over a forward pass and its backward pass."""
    start, factor = torch.ones(1, device=device, requires_grad=True), torch.ones(1, device=device)

    def chain() -> None:
        x = start
        for _ in range(LAUNCHES):
            x = x * factor
        torch.autograd.grad(x, start, factor)

    return least_seconds(chain, device, seconds) / (2 * LAUNCHES)
