"""RegBench: the published size, and one for a few minutes of one core. No torch here.

Source: Akyürek et al. 2024 (arXiv 2401.12973) and the configuration files of github.com/berlino/seq_icl: 5,000 rows
for 200 epochs, 500 held out; their sweep is over layers 1 to 12, widths 64 to 512, rates 1e-4 to 5e-4 and decays 0.01
and 0.1: choose model.layers=, model.width= and so on.
"""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]

ROWS, BATCH, EPOCHS = 5000, 32, 200
_STEPS = ROWS * EPOCHS // BATCH


def _model(**other: Any) -> Tree:
    return {"kind": "transformer", "width": 64, "layers": 2, "heads": 2, "positions": "rotary", **other}


REGBENCH_PRESETS: dict[str, Tree] = {
    "regbench": {
        "about": "RegBench as published: rows of 10 to 19 words of 5,000 random DFAs; choose model, width and rate",
        "study": {
            "kind": "automata",
            "task": {"kind": "regbench"},
            "data": {"kind": "cached", "train": ROWS, "validation": 500, "test": 500},
        },
        "model": _model(),
        "training": {
            "steps": _STEPS,
            "batch": BATCH,
            "optimiser": {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1},
            "rate": 5e-4,
            "schedule": {"kind": "cosine", "warmup": _STEPS // 10, "floor": 0.1},
        },
    },
    "regbench-demo": {
        "about": "RegBench made small: 8 words of up to 14 letters, always new DFAs; a minute of one core",
        "study": {
            "kind": "automata",
            "task": {
                "kind": "regbench",
                "nodes": [4, 6],
                "letters": [18, 18],
                "edges": [1, 2],
                "word_length": [1, 14],
                "words": [6, 8],
            },
            "data": {"kind": "fresh"},
            "evaluation": {"rows": 256},
        },
        "model": _model(mlp=0),
        "training": {
            "steps": 900,
            "batch": 32,
            "optimiser": {"kind": "adamw", "weight_decay": 0.01},
            "rate": 3e-3,
            "schedule": {"kind": "cosine", "warmup": 100, "floor": 0.1},
        },
        "record": {
            "checkpoints": {"kind": "loglinear", "log": 8, "linear": 8},
            "evaluations": {"kind": "loglinear", "log": 8, "linear": 8},
        },
    },
}
