"""One training step of the paper's regression model on one thread.

    python benchmarks/step.py

- ours: the laboratory's whole step (addressed data, forward, backward, norm, schedule, fused update)
- bare: the same model in the barest loop (torch's generator, one fused optimiser call, nothing recorded)
- literal: the loop most people would write (benchmarks/literal.py)
- products: the dense matrix products of the literal step alone, which no arrangement can avoid

Rounds of sixteen steps are interleaved; the least time of each is kept. Writes benchmarks/results/step.json.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from literal import literal_step
from measuring import fastest, print_table, store

from inlearn.lab import discovery
from inlearn.lab.build import build, build_model, build_trainer
from inlearn.lab.config import compose
from inlearn.models.flat import FlatParameters

BARS = {"ours / bare": 1.05, "literal / ours": 1.2}


def ours_step(rows: int) -> Callable[[], None]:
    """The trainer's own update, as `inlearn run regression preset=paper-lr` makes it."""
    config = compose(discovery.study("regression"), ["preset=paper-lr", f"training.batch={rows}"])
    built = build(config)
    trainer = build_trainer(built)

    def step() -> None:
        trainer.pending = 0  # as after a training line
        trainer.update(built.tasks[0])

    return step


def bare_step(rows: int, dim: int = 4, examples: int = 8, variance: float = 0.125) -> Callable[[], None]:
    """The same model, with nothing around it."""
    config = compose(discovery.study("regression"), ["preset=paper-lr"])
    built = build(config)
    model = build_model(config, built.study.interface, built.device)
    flat = FlatParameters(model)
    optimiser = torch.optim.Adam([flat.values], lr=0.003, fused=True)
    scored = torch.arange(rows * (2 * examples - 1)).view(rows, -1)[:, ::2].flatten()

    def step() -> None:
        w, x = torch.randn(rows, dim, 1), torch.randn(rows, examples, dim)
        y = x @ w + torch.randn(rows, examples, 1) * variance**0.5
        tokens = torch.zeros(rows, 2 * examples - 1, dim + 1)
        tokens[:, 0::2, 1:], tokens[:, 1::2, :1] = x, y[:, :-1]
        flat.zero()
        outputs, _ = model(tokens, scored=scored)
        (outputs[:, :1] - y.view(-1, 1)).square().mean().backward()
        optimiser.step()

    return step


def products_step(rows: int, dim: int = 4, examples: int = 8) -> Callable[[], None]:
    """The dense products forward and twice backward, over all 2K positions."""
    tokens = rows * 2 * examples
    shapes = [(dim + 1, 64), *[(64, 192), (64, 64), (64, 64), (64, 64)] * 2, (64, dim + 1)]
    operands = [(torch.randn(tokens, i), torch.randn(i, o), torch.randn(tokens, o)) for i, o in shapes]

    def step() -> None:
        for x, weight, gradient in operands:
            x @ weight
            gradient @ weight.T
            x.T @ gradient

    return step


def main() -> None:
    torch.set_num_threads(1)
    rows, results = [], {}
    for batch, seconds in ((256, 30), (1024, 60)):
        steps = {"ours": ours_step(batch), "bare": bare_step(batch), "literal": literal_step(batch),
                 "products": products_step(batch)}  # fmt: skip
        best = fastest(steps, seconds, together=16)  # ours draws sixteen steps at once
        ratios = {"ours / bare": best["ours"] / best["bare"], "literal / ours": best["literal"] / best["ours"],
                  "products / ours": best["products"] / best["ours"]}  # fmt: skip
        results[str(batch)] = {"ms": best, "ratios": ratios}
        rows.append((batch, *best.values(), *ratios.values()))
    print_table(("batch", *(f"{name} ms" for name in steps), *ratios), rows)
    print(f"bars: ours / bare at most {BARS['ours / bare']}, literal / ours at least {BARS['literal / ours']}")
    store("step", {"batches": results, "bars": BARS})


if __name__ == "__main__":
    main()
