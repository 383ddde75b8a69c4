"""What stands in the way of a quicker step: its time divided by cause, and what the largest of them asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from inlearn.lab.roofline import StepCost

NEAR = 0.7  # of the measured rate: products as quick as this are limited by their number, not by their shapes


@dataclass(frozen=True)
class Operator:
    """A step's calls of one operator: as torch.profiler times them, whose own cost is in `ms`; FLOP as counted."""

    name: str
    ms: float
    calls: float
    flop: int
    flop_rate: float | None  # FLOP/s


def limits(
    inside_ms: float,
    data_ms: float,
    operators: list[Operator],
    profiled_ms: float,
    cost: StepCost,
    launch_ms: float,
    device: torch.device,
) -> dict[str, float]:
    """Shares of a step (sum 1): `data`, `products`, `memory` (all other operators), `launches`, `python`, the rest.

    inside_ms: the step without its data; profiled_ms: the same under the profiler; launch_ms: of an empty operator.
    On a CPU `launches` is the number of operators times the cost of an empty one, which is taken off what the profiler
    gives the operators. On a CUDA device it is the time in which no kernel runs, whatever the host did in it.
    """
    products, others = (sum(o.ms for o in operators if (o.flop > 0) == with_flop) for with_flop in (True, False))
    if device.type == "cuda":
        found = {"products": products, "memory": others, "launches": max(0.0, inside_ms - products - others)}
    else:
        scale = inside_ms / profiled_ms  # a step takes longer under the profiler
        calls = sum(c.calls for c in cost.operators.values() if c.flop)
        products = max(0.0, products * scale - calls * launch_ms)
        others = max(0.0, others * scale - (cost.total.calls - calls) * launch_ms)
        launches = min(cost.total.calls * launch_ms, inside_ms - products - others)
        found = {"products": products, "memory": others, "launches": launches}
        found["python"] = max(0.0, inside_ms - sum(found.values()))
    whole = data_ms + sum(found.values())
    return {name: spent / whole for name, spent in {"data": data_ms, **found}.items()}


def verdict(
    shares: Mapping[str, float],
    operators: list[Operator],
    product_rate: float,
    device: torch.device,
    stacks: bool = True,
    compiles: bool = True,
) -> str:
    """One sentence: the largest share of the step, and what would make it smaller.

    `stacks`, `compiles`: whether a stack would, and whether the run's updates can be compiled (on a CPU).
    """
    name = max(shares, key=lambda cause: shares[cause])
    products = [o for o in operators if o.flop]
    took = sum(o.ms for o in products)
    near = sum(o.flop for o in products) / (took / 1e3) / product_rate if took else 0.0
    fused = "CUDA graphs, " if device.type == "cuda" else "execution.step=compiled, " if compiles else ""
    stack = ", or a stack of runs (inlearn sweep)" if stacks else ""
    what, help_ = {
        "data": ("making batches", "drawing several steps at once, or on the device where the model is"),
        "products": (
            f"matrix products, which run at {near:.0%} of the measured rate",
            "fewer of them (scored positions, a shorter row), a lower precision, more cores"
            if near >= NEAR
            else f"larger ones (batch, width){stack}",
        ),
        "memory": (
            "operators that only move numbers",
            (f"fusing them ({fused[:-2]}), " if fused else "") + "fewer copies, a lower precision",
        ),
        "launches": ("starting operators", f"{fused}a larger batch{stack}"),
        "python": (
            "what is between the operators (Python, autograd)",
            f"{fused}a larger batch{stack}",
        ),
    }[name]
    return f"The next limit is {what}: {shares[name]:.0%} of the step; what would help: {help_}."
