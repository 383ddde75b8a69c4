"""Published configurations, and a small one for demonstrations. No torch here.

Sources: the sweep files and defaults of github.com/timaeus-research/icl, and Raventós et al. (arXiv 2306.15063).
Sweeps that do not name the attention's output projection have none, for that was the code's default.
A preset is a partial run configuration. Its "about" says in one line what it is.
"""

from __future__ import annotations

from typing import Any

from inlearn.core.configuration import merge

Tree = dict[str, Any]

TASK_COUNTS = tuple(1 << power for power in range(21))
NOISELESS_COUNTS = (1, 16, 256, 4096, 65536, 1048576)
NOISELESS_POWERS = (2, 5, 8, 11)


def _study(dimension: int, examples: int, count: int | str, noise_variance: float, outputs: str = "token") -> Tree:
    task = {"dimension": dimension, "examples": examples, "count": count, "noise_variance": noise_variance}
    return {"kind": "regression", "task": task, "outputs": outputs}


def _model(layers: int, heads: int, width: int, **further: Any) -> Tree:
    """The published transformer: pre-LN, no biases in attention, ReLU, and the residual stream doubled by a quirk."""
    published: Tree = {
        "kind": "transformer",
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp": width,
        "activation": "relu",
        "norm": "layernorm",
        "positions": "learned",
        "dropout": 0.0,
        "attention_bias": False,
        "output_projection": True,
        "output_bias": False,
        "mlp_bias": True,
        "head_bias": True,
        "embed_bias": False,
        "tied": False,
        "residual": "double",
        "init": "uniform",
        "final_norm": True,
    }
    return published | further


def _training(rate: float, steps: int = 500_000, batch: int = 256) -> Tree:
    """Adam under a triangle: the rate starts and ends at practically nothing and peaks half-way."""
    division = steps // 2 - 1
    return {
        "steps": steps,
        "batch": batch,
        "optimiser": {"kind": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
        "rate": rate,
        "schedule": {
            "kind": "onecycle",
            "peak_at": 0.5,
            "initial_division": division,
            "final_division": division,
        },
    }


def _record(log: int = 100, linear: int = 100) -> Tree:
    steps = {"kind": "loglinear", "log": log, "linear": linear}
    return {"checkpoints": dict(steps), "evaluations": dict(steps)}


def _preset(about: str, study: Tree, model: Tree, training: Tree, record: Tree | None = None) -> Tree:
    return {"about": about, "study": study, "model": model, "training": training, "record": record or _record()}


def _small(count: int | str, examples: int) -> Tree:
    return _study(4, examples, count, 0.125)


def _noiseless(count: int, power: int) -> Tree:
    return _preset(
        f"8 layers, D=8, K=16, M={count}, noise variance 2^-{power} (archived sweep)",
        merge(_study(8, 16, count, 2.0**-power), {"evaluation": {"rows": 2048}}),
        _model(8, 2, 128, output_projection=False),
        _training(0.001),
    )


PRESETS: dict[str, Tree] = {
    "demo": _preset(
        "the paper's model and task on a schedule of 6,000 steps: minutes on a laptop",
        _small("inf", 8),
        _model(2, 4, 64),
        _training(0.003, steps=6_000),
        _record(log=40, linear=30),
    ),
    "paper-lr": _preset(
        "Developmental Landscape, regression: L2H4, D=4, K=8, Gaussian tasks",
        _small("inf", 8),
        _model(2, 4, 64),
        _training(0.003),
    ),
    "main-lr": _preset("the same with K=16 (main branch)", _small("inf", 16), _model(2, 4, 64), _training(0.003)),
    **{
        f"finite-m{count}": _preset(
            f"L2H4, D=4, K=16, M={count} task vectors", _small(count, 16), _model(2, 4, 64), _training(0.003)
        )
        for count in TASK_COUNTS
    },
    **{
        f"taskprior-m{count}": _preset(
            f"task-prior figure: L2H4, D=4, K=8, M={count}, peak rate 0.01",
            _small(count, 8),
            _model(2, 4, 64, output_projection=False),
            _training(0.01),
        )
        for count in TASK_COUNTS
    },
    "deep-lr": _preset(
        "8 layers, 2 heads, D=8, K=16, Gaussian tasks",
        _study(8, 16, "inf", 0.25),
        _model(8, 2, 128),
        _training(0.003),
    ),
    "deep-lr-m64": _preset(
        "the published code's defaults: 8 layers, D=8, K=16, M=64",
        merge(_study(8, 16, 64, 0.25), {"evaluation": {"rows": 2048}}),
        _model(8, 2, 128, output_projection=False),
        _training(0.001),
        _record(log=50, linear=50),
    ),
    **{
        f"deep-noiseless-m{count}-p{power}": _noiseless(count, power)
        for count in NOISELESS_COUNTS
        for power in NOISELESS_POWERS
    },
    "raventos": _preset(
        "Raventós et al. 2023: GPT-2 style, 8 layers, D=8, K=16; choose the task diversity by task.count=",
        _study(8, 16, "inf", 0.25, outputs="answer"),
        _model(
            8,
            2,
            128,
            mlp=512,
            activation="gelu_tanh",
            attention_bias=True,
            output_bias=True,
            head_bias=False,
            residual="standard",
            init="gpt2",
        ),
        _training(0.001),
    ),
}
