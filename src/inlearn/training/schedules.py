"""Learning rates and recording steps as pure functions of the step. No torch here."""

from __future__ import annotations

import math

import numpy as np

from inlearn.core.errors import UserError
from inlearn.training.config import Constant, Cosine, Every, Exponential, Listed, LogLinear, Never, OneCycle


def rate_factor(schedule: Constant | OneCycle | Cosine | Exponential, step: int, steps: int) -> float:
    """The learning rate of the update that follows `step` updates, as a fraction of the peak."""
    if isinstance(schedule, OneCycle):
        return _one_cycle(schedule, step, steps)
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    after = step - schedule.warmup
    if isinstance(schedule, Cosine):
        share = after / max(1, steps - schedule.warmup - 1)
        return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    if isinstance(schedule, Exponential):
        return 2.0 ** (-after / schedule.half_life)
    return 1.0


def _one_cycle(schedule: OneCycle, step: int, steps: int) -> float:
    """torch's OneCycleLR with linear annealing: the peak is at update peak_at·steps - 1, the end at steps - 1."""
    initial = 1.0 / schedule.initial_division
    final = initial / schedule.final_division
    peak = schedule.peak_at * steps - 1
    if step <= peak:
        return initial + (1.0 - initial) * (step / peak if peak > 0 else 1.0)
    return 1.0 + (final - 1.0) * (step - peak) / (steps - 1 - peak)


def log_linear_steps(horizon: int, log: int, linear: int, log_stride: int = 1, linear_stride: int = 1) -> list[int]:
    """The union of truncated logspace(1, horizon, log) and linspace(0, horizon, linear), sorted and distinct.

    Truncation is the published one, so a log set of 500,000 ends at 499,999.
    """
    spaced_log = np.logspace(0.0, math.log10(horizon), log).astype(int) if log else []
    spaced_linear = np.linspace(0, horizon, linear).astype(int) if linear else []
    some = sorted({int(s) for s in spaced_log})[::log_stride]
    more = sorted({int(s) for s in spaced_linear})[::linear_stride]
    return sorted({*some, *more})


def recorded_steps(schedule: LogLinear | Every | Listed | Never, horizon: int) -> frozenset[int]:
    """Every step at which something is recorded; the initial weights (0) and the last step are always among them."""
    if isinstance(schedule, LogLinear):
        chosen = log_linear_steps(horizon, schedule.log, schedule.linear, schedule.log_stride, schedule.linear_stride)
    elif isinstance(schedule, Every):
        chosen = list(range(0, horizon, schedule.steps))
    elif isinstance(schedule, Listed):
        chosen = list(schedule.steps)
        if beyond := [step for step in chosen if step > horizon]:
            raise UserError(f"a recorded step is {beyond[0]}, but training.steps = {horizon}")
    else:
        chosen = []
    return frozenset({0, horizon, *chosen})
