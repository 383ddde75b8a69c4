"""Evaluating one checkpoint of the paper's model on one thread, with every measure and the ideal learners.

    python benchmarks/evaluation.py

- ours: two sets (training distribution of 64 tasks, and the Gaussian prior): loss, distances, prediction norm and
  subsequence loss by position with standard errors, and the in-context scores
- literal: the same two sets as the published evaluator walks them: the literal model over every position, a number
  read for every position and measure, and a Python loop over sequences for the subsequence loss

The ideal learners' predictions are made once beforehand on both sides. The published evaluator is on record with 2.8 s
a checkpoint for 8,192 sequences, on its authors' machine. Writes benchmarks/results/evaluation.json.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from literal import LiteralTransformer
from measuring import fastest, print_table, store

from inlearn.core.draws import Address
from inlearn.evaluation.evaluate import Evaluator, predictor
from inlearn.lab import discovery
from inlearn.lab.build import build, build_model
from inlearn.lab.config import compose

SETS = ("train", "gaussian")
BARS = {"ms for 2 x 1,024": 1000.0, "published 2,800 ms / ours for 8,192": 5.0}
PUBLISHED_MS = 2800.0


def both(rows: int) -> dict[str, Callable[[], object]]:
    config = compose(discovery.study("regression"), ["preset=paper-lr", "task.count=64", f"evaluation.rows={rows}"])
    built = build(config)
    model = build_model(config, built.study.interface, built.device).eval()
    evaluator = Evaluator(built.study, config.seeds)
    predict = predictor(model, built.tasks[0], built.device)
    evaluator.references(SETS)  # drawn, and the ideal learners asked, once

    prepared = []
    for name in SETS:
        batch = built.study.tasks[name].sample(Address(evaluator.seeds, "eval"), rows)
        ideal = [r.predict(batch).float().view(rows, -1) for r in built.study.references(name)]
        prepared.append((batch, ideal))

    published = LiteralTransformer(4, 8, width=64, layers=2, heads=4, hidden=64)

    def literal() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, (batch, ideal) in zip(SETS, prepared, strict=True):
            with torch.no_grad():
                answers = published(batch.inputs)[:, 0::2, 0]
            ys = batch.latents.ys
            for other, values in (("mse", ys), *((str(i), v) for i, v in enumerate(ideal))):
                losses = (answers - values).square().mean(0)
                for position in range(losses.shape[0]):
                    found[f"{name}/{other}/token/{position}"] = losses[position].item()
                found[f"{name}/{other}"] = losses.mean().item()
            lengths = torch.randint(1, ys.shape[1] + 1, (rows,))
            total = 0.0
            for sequence in range(rows):
                part = slice(0, int(lengths[sequence]))
                total += (answers[sequence, part] - ys[sequence, part]).square().mean().item()
            found[f"{name}/mse_subsequence"] = total / rows
        return found

    return {"ours": lambda: evaluator.learner("model", predict, SETS), "literal": literal}


def main() -> None:
    torch.set_num_threads(1)
    rows, results = [], {}
    for size, seconds in ((1024, 10), (4096, 20), (8192, 30)):
        best = fastest(both(size), seconds)
        ratios = {"literal / ours": best["literal"] / best["ours"]}
        if 2 * size >= 8192:
            ratios["published / ours"] = PUBLISHED_MS * (2 * size / 8192) / best["ours"]
        results[f"2 x {size}"] = {"ms": best, **ratios}
        rows.append((f"2 x {size}", *best.values(), ratios["literal / ours"], ratios.get("published / ours", "-")))
    print_table(("sequences", "ours ms", "literal ms", "literal / ours", "published / ours"), rows)
    print(f"bars: {BARS}")
    store("evaluation", {"sizes": results, "bars": BARS, "published ms for 8,192": PUBLISHED_MS})


if __name__ == "__main__":
    main()
