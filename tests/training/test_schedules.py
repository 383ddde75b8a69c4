"""Rates against torch's schedulers; step sets against the published counts."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inlearn.core.errors import UserError
from inlearn.training.config import Constant, Cosine, Every, Exponential, Listed, LogLinear, Never, OneCycle
from inlearn.training.schedules import log_linear_steps, rate_factor, recorded_steps


def torch_rates(steps: int, make) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimiser), []
    for step in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if step < steps - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("steps", "peak_at", "initial", "final"), [(60, 0.5, 29, 29), (101, 0.3, 25, 1e4), (7, 0.5, 3, 2)]
)
def test_one_cycle_is_torchs(steps, peak_at, initial, final):
    def make(optimiser):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, 1.0, steps, pct_start=peak_at, anneal_strategy="linear", cycle_momentum=False,
            div_factor=initial, final_div_factor=final)  # fmt: skip

    schedule = OneCycle(peak_at=peak_at, initial_division=initial, final_division=final)
    ours = [rate_factor(schedule, step, steps) for step in range(steps)]
    assert ours == pytest.approx(torch_rates(steps, make), abs=1e-12)


def test_the_published_triangle():
    schedule = OneCycle(initial_division=249_999, final_division=249_999)
    rates = [0.003 * rate_factor(schedule, step, 500_000) for step in (0, 249_999, 499_999)]
    assert rates == pytest.approx([1.2e-8, 0.003, 4.8e-14], rel=1e-3)


def test_cosine_is_torchs():
    def make(optimiser):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 99, eta_min=0.1)

    ours = [rate_factor(Cosine(floor=0.1), step, 100) for step in range(100)]
    assert ours == pytest.approx(torch_rates(100, make), abs=1e-12)


def test_exponential_halves_and_warm_up_is_linear():
    schedule = Exponential(half_life=10, warmup=4)
    assert [rate_factor(schedule, step, 100) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate_factor(schedule, 24, 100) == pytest.approx(0.25)
    assert rate_factor(Constant(), 50, 100) == 1.0


SCHEDULES = st.one_of(
    st.builds(Constant, warmup=st.integers(0, 20)),
    st.builds(Cosine, warmup=st.integers(0, 20), floor=st.floats(0, 1)),
    st.builds(Exponential, warmup=st.integers(0, 20), half_life=st.floats(0.5, 100)),
    st.builds(
        OneCycle, peak_at=st.floats(0.1, 0.9), initial_division=st.floats(1, 1e5), final_division=st.floats(1, 1e5)
    ),
)


@given(SCHEDULES, st.integers(25, 300))
def test_rates_stay_between_zero_and_the_peak(schedule, steps):
    factors = [rate_factor(schedule, step, steps) for step in range(steps)]
    assert all(0 <= factor <= 1 + 1e-12 for factor in factors)
    rising = [b - a > 1e-15 for a, b in pairwise(factors)]  # more than rounding
    assert rising == sorted(rising, reverse=True), "no schedule rises again once it has fallen"


@pytest.mark.parametrize(
    ("horizon", "log", "linear", "distinct", "reachable"),
    [(500_000, 100, 100, 191, 190), (500_000, 100, 10_000, 10_090, 10_089), (500_000, 0, 50_000, 50_000, 49_999),
     (500_000, 50, 50, 97, 96), (50_000, 100, 2_000, 2_086, 2_085)],
)  # fmt: skip
def test_published_step_counts(horizon, log, linear, distinct, reachable):
    steps = log_linear_steps(horizon, log, linear)
    assert (len(steps), sum(step < horizon for step in steps)) == (distinct, reachable)


def test_the_published_log_list():
    steps = log_linear_steps(500_000, 100, 0)
    assert len(steps) == 91 and steps[:12] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14]
    assert {984, 1124, 2490, 3247, 383_565, 437_929, 499_999} <= set(steps)


def test_strides_keep_every_nth_of_each_part():
    assert log_linear_steps(100, 0, 11, linear_stride=2) == [0, 20, 40, 60, 80, 100]
    assert log_linear_steps(100, 3, 0, log_stride=2) == [1, 100]


@given(st.integers(1, 10_000), st.integers(0, 60), st.integers(0, 60))
def test_recorded_steps_are_inside_and_hold_both_ends(horizon, log, linear):
    steps = recorded_steps(LogLinear(log=log, linear=linear), horizon)
    assert {0, horizon} <= steps and all(0 <= step <= horizon for step in steps)


def test_other_ways_to_choose_steps():
    assert recorded_steps(Every(steps=30), 100) == {0, 30, 60, 90, 100}
    assert recorded_steps(Listed(steps=(5, 7)), 100) == {0, 5, 7, 100}
    assert recorded_steps(Never(), 100) == {0, 100}
    with pytest.raises(UserError, match="a recorded step is 101"):
        recorded_steps(Listed(steps=(101,)), 100)


def test_half_lives_are_what_they_say():
    assert math.isclose(rate_factor(Exponential(half_life=7), 7, 100), 0.5)
