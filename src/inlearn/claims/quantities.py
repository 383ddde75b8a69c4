"""Exact numbers that belong to no study: parameter counts, initial norms, step schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence

from inlearn.lab import discovery
from inlearn.lab.build import build_model, build_study
from inlearn.lab.config import compose


def parameters(study: str, overrides: Sequence[str] = ()) -> float:
    """The number of parameters of the configured model."""
    config = compose(discovery.study(study), overrides)
    return float(sum(p.numel() for p in config.model.build(build_study(config).interface).parameters()))


def initial_norm(study: str, overrides: Sequence[str] = (), seed: int = 0) -> float:
    """The Euclidean norm of all initial weights."""
    import torch

    config = compose(discovery.study(study), [*overrides, f"seed={seed}"])
    model = build_model(config, build_study(config).interface, torch.device("cpu"))
    return math.sqrt(sum(float(p.detach().double().square().sum()) for p in model.parameters()))


def schedule_steps(horizon: int, log: int, linear: int, below: int | None = None) -> float:
    """How many distinct steps a log-union-linear schedule has, or has below a step."""
    from inlearn.training.schedules import log_linear_steps

    steps = log_linear_steps(horizon, log, linear)
    return float(len(steps) if below is None else sum(step < below for step in steps))


QUANTITIES = {"parameters": parameters, "initial_norm": initial_norm, "schedule_steps": schedule_steps}
