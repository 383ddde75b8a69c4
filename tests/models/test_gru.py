"""GRU layers: members 3, rows 2, positions 1 to 7, width 5."""

from __future__ import annotations

import math

import pytest
import recurrent_cases as cases
import torch

from inlearn.models.gru_config import GRUConfig


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("members", [None, 3])
def test_all_forms_agree(members: int | None, steps: int, continued: bool) -> None:
    cases.check_forms("gru", members, steps, continued)


def test_gradients() -> None:
    cases.check_gradients_numerically("gru")
    cases.check_functional_gradients("gru")
    cases.check_second_derivatives("gru")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "rows", "steps"), [(1, 1, 7), (2, 3, 7), (5, 2, 7), (17, 5, 1), (33, 1, 2)])
def test_a_member_has_the_same_bits_in_any_company(width: int, rows: int, steps: int, dtype: torch.dtype) -> None:
    cases.check_bits("gru", width, rows, steps, dtype)


def test_float32_under_autocast() -> None:
    cases.check_autocast("gru")


def test_compiled() -> None:
    cases.check_compiled("gru")


def test_initial_weights() -> None:
    orthogonal = cases.initialised(GRUConfig(width=48))
    cases.assert_orthogonal(orthogonal["weight_hh"])
    cases.assert_uniform(orthogonal["weight_ih"], math.sqrt(6 / (4 * 48)))
    assert not orthogonal["bias_ih"].any()
    assert not orthogonal["bias_hh"].any()
    for values in cases.initialised(GRUConfig(width=48, recurrent_init="uniform")).values():
        cases.assert_uniform(values, 48**-0.5)
