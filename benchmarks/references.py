"""Ridge and dMMSE for all prefixes: ours against a loop over prefixes, in one run, on one thread.

The loop is the straightforward form, batched over rows: for every k it forms XᵀX of the first k examples and solves,
or sums the squared errors of all task vectors over the first k examples and takes a softmax. Rows of the looped
dMMSE are taken in groups that keep its largest tensor within 256 MiB. Both sides compute in float64 and are checked
to agree. Times are the least of several rounds in which the two take turns.

    .venv/bin/python benchmarks/references.py            writes benchmarks/results/references.json
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from measuring import store
from torch import Tensor

from inlearn.studies.regression.references import dmmse_predictions, ridge_predictions

BAR = 5.0
NOISE = 0.125
RIDGE_SIZES = [(rows, 16, dimension) for rows in (1024, 8192) for dimension in (4, 8)]
DMMSE_SIZES = [(1024, 16, dimension, count) for dimension in (4, 8) for count in (16, 256, 4096)]
DMMSE_SIZES += [(8192, 16, 4, 16), (8192, 16, 4, 256)]


def looped_ridge(xs: Tensor, ys: Tensor, regulariser: float) -> Tensor:
    penalty = regulariser * torch.eye(xs.shape[-1], dtype=xs.dtype)
    answers = [torch.zeros_like(ys[:, 0])]
    for k in range(1, xs.shape[1]):
        x, y = xs[:, :k], ys[:, :k, None]
        w = torch.linalg.solve(x.mT @ x + penalty, x.mT @ y)
        answers.append((w.squeeze(-1) * xs[:, k]).sum(-1))
    return torch.stack(answers, 1)


def looped_dmmse(xs: Tensor, ys: Tensor, vectors: Tensor, noise_variance: float, memory: int = 256 << 20) -> Tensor:
    rows = max(1, memory // (8 * xs.shape[1] * len(vectors)))
    parts = []
    for x, y in zip(xs.split(rows), ys.split(rows), strict=True):
        answers = [x[:, 0] @ vectors.mean(0)]
        for k in range(1, xs.shape[1]):
            errors = (y[:, :k, None] - x[:, :k] @ vectors.T).square().sum(1)
            w = torch.softmax(errors / (-2 * noise_variance), -1) @ vectors
            answers.append((w * x[:, k]).sum(-1))
        parts.append(torch.stack(answers, 1))
    return torch.cat(parts)


def taking_turns(loop: Callable[[], Tensor], ours: Callable[[], Tensor], rounds: int = 5) -> tuple[float, float, float]:
    """Least milliseconds of each, and the largest difference between their answers."""
    difference = (loop() - ours()).abs().max().item()
    best = [float("inf"), float("inf")]
    for _ in range(rounds):
        for side, run in enumerate((loop, ours)):
            start = time.perf_counter()
            run()
            best[side] = min(best[side], (time.perf_counter() - start) * 1e3)
    return best[0], best[1], difference


def draw(rows: int, examples: int, dimension: int, count: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    xs, w, vectors = (
        torch.randn(shape, dtype=torch.float64, generator=generator)
        for shape in ((rows, examples, dimension), (rows, 1, dimension), (count, dimension))
    )
    noise = torch.randn(rows, examples, dtype=torch.float64, generator=generator) * NOISE**0.5
    return xs, (xs * w).sum(-1) + noise, vectors


def main() -> None:
    torch.set_num_threads(1)
    table = []
    for rows, examples, dimension in RIDGE_SIZES:
        xs, ys, _ = draw(rows, examples, dimension)
        times = taking_turns(lambda: looped_ridge(xs, ys, NOISE), lambda: ridge_predictions(xs, ys, NOISE))  # noqa: B023
        table.append({"learner": "ridge", "rows": rows, "K": examples, "D": dimension, "M": None} | line(times))
    for rows, examples, dimension, count in DMMSE_SIZES:
        xs, ys, vectors = draw(rows, examples, dimension, count)
        times = taking_turns(
            lambda: looped_dmmse(xs, ys, vectors, NOISE),  # noqa: B023
            lambda: dmmse_predictions(xs, ys, vectors, NOISE),  # noqa: B023
            rounds=3,
        )
        table.append({"learner": "dmmse", "rows": rows, "K": examples, "D": dimension, "M": count} | line(times))
    print("learner   rows   K  D     M    loop ms    ours ms   ratio  difference")
    for row in table:
        print(
            f"{row['learner']:7} {row['rows']:6} {row['K']:3} {row['D']:2} {row['M'] or '-':>5} {row['loop_ms']:10.2f} "
            f"{row['ours_ms']:10.2f} {row['ratio']:7.1f}  {row['largest_difference']:.1e}"
        )
    worst = min(row["ratio"] for row in table)
    print(f"least ratio {worst:.1f}; the bar is {BAR}")
    store("references", {"bar": BAR, "least_ratio": worst, "sizes": table})


def line(times: tuple[float, float, float]) -> dict[str, float]:
    loop, ours, difference = times
    return {
        "loop_ms": round(loop, 3),
        "ours_ms": round(ours, 3),
        "ratio": round(loop / ours, 2),
        "largest_difference": difference,
    }


if __name__ == "__main__":
    main()
