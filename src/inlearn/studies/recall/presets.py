"""A small configuration for demonstrations, and published ones. No torch here.

Sources: Arora et al. 2023 (arXiv 2312.04927) and the configuration files of github.com/HazyResearch/zoology: the
paper's figure 2, and `original_mqar_configs.py` for the mixture. They train on 100,000 rows (180,000) for 64 (32)
epochs; here every row is fresh, and the steps are as many. Their attention has a dropout of 0.1, left out here because
fresh rows cannot be learnt by heart. Widths and rates are the sweep's: choose model.width= and training.rate=.
"""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]

FIGURE_2 = {64: (4, 512), 128: (8, 512), 256: (16, 256), 512: (64, 128)}
"""Length of a row: (pairs, batch)."""
_FIGURE_2_ROWS = 100_000 * 64
_MIXTURE_ROWS = 180_000 * 32


def _attention_alone() -> Tree:
    """The published attention model: two layers of one head, no MLP, the head tied to the embedding."""
    return {
        "kind": "transformer",
        "width": 64,
        "layers": 2,
        "heads": 1,
        "mlp": 0,
        "norm": "layernorm",
        "positions": "learned",
        "dropout": 0.0,
        "attention_bias": True,
        "output_projection": True,
        "output_bias": True,
        "head_bias": False,
        "tied": True,
        "init": "gpt2",
        "final_norm": True,
    }


def _training(steps: int, batch: int, rate: float, decay: float = 0.1, warmup: int = 0) -> Tree:
    return {
        "steps": steps,
        "batch": batch,
        "optimiser": {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": decay},
        "rate": rate,
        "schedule": {"kind": "cosine", "warmup": warmup, "floor": 0.0},
    }


def _record(log: int, linear: int) -> Tree:
    steps = {"kind": "loglinear", "log": log, "linear": linear}
    return {"checkpoints": dict(steps), "evaluations": dict(steps)}


def _figure_2(length: int) -> Tree:
    pairs, batch = FIGURE_2[length]
    task = {"vocabulary": 8192, "length": length, "pairs": pairs, "power": 0.01, "passes": 1, "filler": "zero"}
    return {
        "about": f"MQAR, figure 2: {pairs} pairs in {length} symbols of 8,192; choose model, width and rate",
        "study": {"kind": "recall", "task": task, "evaluation": {"rows": 3000, "pairs": [pairs], "pair_rows": 3000}},
        "model": _attention_alone(),
        "training": _training(_FIGURE_2_ROWS // batch, batch, 1e-3),
        "record": _record(10, 10),
    }


PRESETS: dict[str, Tree] = {
    "demo": {
        "about": "2 to 8 pairs in 64 symbols of 64, two layers of attention: half a minute on one core",
        "study": {
            "kind": "recall",
            "task": {"vocabulary": 64, "length": 64, "pairs": [2, 3, 4, 5, 6, 7, 8]},
            "evaluation": {"rows": 256, "pairs": [2, 4, 8, 16], "pair_rows": 64},
        },
        "model": {"kind": "transformer", "width": 64, "layers": 2, "heads": 2, "mlp": 0, "init": "uniform"},
        "training": _training(800, 64, 3e-3, decay=0.01, warmup=50),
        "record": _record(12, 12),
    },
    **{f"figure2-{length}": _figure_2(length) for length in FIGURE_2},
    "mixture": {
        "about": "MQAR, newer sweep at one length: 4 pairs in 5 rows of 9, else 8 to 64, in 256 symbols of 8,192",
        "study": {
            "kind": "recall",
            "task": {"vocabulary": 8192, "length": 256, "pairs": [4, 4, 4, 4, 4, 8, 16, 32, 64]},
            "evaluation": {"rows": 1000, "pairs": [4, 8, 16, 32, 64], "pair_rows": 1000},
        },
        "model": _attention_alone(),
        "training": _training(_MIXTURE_ROWS // 256, 256, 10**-2.5),
        "record": _record(10, 10),
    },
}
