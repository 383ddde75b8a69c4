"""One training step of the paper's regression model on one thread: ours, the literal loop, and the matrix products.

    python benchmarks/step.py

Rounds of the three are interleaved and the minimum of each is kept, so that a busy machine disturbs them alike.
Writes benchmarks/results/step.json.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from literal import literal_step

from inlearn.core.contract import Interface, Vectors
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.transformer_config import TransformerConfig

DIM, EXAMPLES = 4, 8
PAPER = TransformerConfig(width=64, layers=2, heads=4, mlp=64, activation="relu", residual="double", init="uniform")


@dataclass(frozen=True)
class Seeds:
    init: int = 0
    eval: int = 0


def ours_step(rows: int) -> Callable[[], None]:
    """A closure that updates our model once on one fixed batch."""
    model = PAPER.build(Interface(Vectors(DIM + 1), Vectors(DIM + 1, answers=1), 2 * EXAMPLES))
    initialise(model, Seeds())
    flat = FlatParameters(model)
    optimiser = torch.optim.Adam([flat.values], lr=0.003, fused=True)
    tokens = torch.randn(rows, 2 * EXAMPLES, DIM + 1)
    scored = torch.arange(rows * 2 * EXAMPLES).view(rows, -1)[:, ::2].flatten()
    targets = torch.randn(len(scored), 1)

    def step() -> None:
        flat.zero()
        outputs, _ = model(tokens, scored=scored)
        (outputs[:, :1] - targets).square().mean().backward()
        optimiser.step()

    return step


def products_step(rows: int) -> Callable[[], None]:
    """Only the dense products of the literal step, forward and twice backward: what no arrangement can avoid."""
    tokens = rows * 2 * EXAMPLES
    shapes = [(DIM + 1, 64), *[(64, 192), (64, 64), (64, 64), (64, 64)] * 2, (64, DIM + 1)]
    operands = [(torch.randn(tokens, i), torch.randn(i, o), torch.randn(tokens, o)) for i, o in shapes]

    def step() -> None:
        for x, weight, gradient in operands:
            x @ weight
            gradient @ weight.T
            x.T @ gradient

    return step


def fastest(steps: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Minimum milliseconds of each step over interleaved rounds lasting `seconds` in all."""
    best = dict.fromkeys(steps, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], (time.perf_counter() - start) * 1e3)
    return best


def main() -> None:
    torch.set_num_threads(1)
    results = {}
    for rows, seconds in ((256, 10), (1024, 20)):
        steps = {"ours": ours_step(rows), "literal": literal_step(rows), "products": products_step(rows)}
        best = fastest(steps, seconds)
        results[str(rows)] = {name: round(value, 2) for name, value in best.items()}
        ratio = best["literal"] / best["ours"]
        print(f"batch {rows}: " + ", ".join(f"{k} {v:.2f} ms" for k, v in best.items()) + f"; {ratio:.2f} times faster")
    where = Path(__file__).parent / "results" / "step.json"
    where.write_text(
        json.dumps({"torch": torch.__version__, "machine": platform.machine(), "ms": results}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
