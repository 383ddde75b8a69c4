"""A small configuration for demonstrations, and published ones. No torch here.

Sizes, lengths and epochs are those of the published experiment plan (docs/studies/automata.md says which row is which):
batches of 8, AdamW at 1e-3 without decay, gradients clipped at 1, 6,000 rows that come round. Its small LSTM is the
model of all presets; choose another with model=.
"""

from __future__ import annotations

from typing import Any

from inlearn.studies.automata.regbench_presets import REGBENCH_PRESETS

Tree = dict[str, Any]

EPOCH = 6000 // 8  # steps


def _published(about: str, epochs: int, states: int, actions: int, **task: Any) -> Tree:
    return {
        "about": about,
        "study": {
            "kind": "automata",
            "task": {"kind": "machines", "states": states, "actions": actions, "demos": 3, **task},
            "data": {"kind": "cached", "train": 6000, "validation": 2000, "test": 2000},
            "supervision": "query",
        },
        "model": {"kind": "lstm", "width": 64, "layers": 2, "dropout": 0.1},
        "training": {
            "epochs": epochs,
            "batch": 8,
            "optimiser": {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
            "rate": 1e-3,
            "schedule": {"kind": "constant"},
            "clip": 1.0,
        },
        "record": {
            "evaluations": {"kind": "every", "steps": EPOCH},
            "checkpoints": {"kind": "every", "steps": 4 * EPOCH},
            "best": "validation/loss",
        },
    }


EASY = _published("3 states, 3 actions: walks of 19", 16, 3, 3)
STANDARD = _published("5 states, 5 actions: walks of 80", 32, 5, 5)
HARD = _published("5 states, 8 actions: demonstrations of 70, queries of 147", 48, 5, 8, demo_length=70)

PRESETS: dict[str, Tree] = {
    "demo": {
        "about": "3 states, 2 actions, a transformer asked for every next state: a minute on one core",
        "study": {
            "kind": "automata",
            "task": {"kind": "machines", "states": 3, "actions": 2, "demos": 3},
            "data": {"kind": "fresh"},
            "supervision": "dense",
            "evaluation": {"rows": 256, "free_rows": 64},
        },
        "model": {
            "kind": "transformer",
            "width": 64,
            "layers": 2,
            "heads": 4,
            "mlp": 64,
            "positions": "rotary",
            "init": "xavier",
        },
        "training": {
            "steps": 700,
            "batch": 16,
            "optimiser": {"kind": "adamw", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
            "rate": 2e-3,
            "schedule": {"kind": "constant", "warmup": 100},
            "clip": 1.0,
        },
        "record": {
            "evaluations": {"kind": "loglinear", "log": 8, "linear": 12},
            "checkpoints": {"kind": "loglinear", "log": 8, "linear": 12},
        },
    },
    "3s3a": EASY,
    "easy": {**EASY, "about": "the same as 3s3a"},
    "3s3a-30": _published("3 states, 3 actions: walks of 30", 10, 3, 3, demo_length=30, query_length=30),
    "5s5a": STANDARD,
    "standard": {**STANDARD, "about": "the same as 5s5a"},
    "5s5a-90": _published("5 states, 5 actions: walks of 90 and 100", 10, 5, 5, demo_length=90, query_length=100),
    "5s8a": HARD,
    "hard": {**HARD, "about": "the same as 5s8a"},
    "8s8a": _published("8 states, 8 actions: demonstrations of 80, queries of 266", 100, 8, 8, demo_length=80),
    "absorption": _published(
        "5s5a with one state that no action leaves: demonstrations of 60, queries of 80",
        32, 5, 5, demo_length=60, absorbing="one",
    ),
    **REGBENCH_PRESETS,
}  # fmt: skip
