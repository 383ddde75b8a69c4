"""LSTM layers: members 3, rows 2, positions 1 to 7, width 5."""

from __future__ import annotations

import math

import pytest
import recurrent_cases as cases
import torch

from inlearn.core.configuration import resolve
from inlearn.core.errors import UserError
from inlearn.models.activations import capture, intervene
from inlearn.models.compiled import CompiledGradients, NotCompiled
from inlearn.models.flat import FlatParameters
from inlearn.models.lstm_config import LSTMConfig


@pytest.mark.parametrize("continued", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("members", [None, 3])
def test_all_forms_agree(members: int | None, steps: int, continued: bool) -> None:
    cases.check_forms("lstm", members, steps, continued)


def test_gradients() -> None:
    cases.check_gradients_numerically("lstm")
    cases.check_functional_gradients("lstm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("width", "rows", "steps"), [(1, 1, 7), (5, 2, 7), (17, 5, 1), (33, 1, 2)])
def test_a_member_has_the_same_bits_in_any_company(width: int, rows: int, steps: int, dtype: torch.dtype) -> None:
    cases.check_bits("lstm", width, rows, steps, dtype)


def test_float32_under_autocast() -> None:
    cases.check_autocast("lstm")


def test_the_fast_form_in_float32_is_close_to_the_literal_one() -> None:
    """oneDNN's kernel, which float64 does not take."""
    layer, x = cases.drawn("lstm", dtype=torch.float32), cases.numbers(8, 40, 5, dtype=torch.float32)
    torch.testing.assert_close(layer(x)[0], cases.literally(layer, x, None)[0], rtol=1e-4, atol=1e-5)


def test_a_compiler_is_told_no_in_words() -> None:
    layer = cases.drawn("lstm", dtype=torch.float32)
    compiled = CompiledGradients(
        FlatParameters(layer), lambda own, x: torch.func.functional_call(layer, own, (x,))[0].sum()
    )
    with pytest.raises(NotCompiled):
        compiled(cases.numbers(2, 7, 5, dtype=torch.float32))


def test_an_edited_cell_reaches_its_hidden_state_and_what_comes_later() -> None:
    """The cell emptied after position 2: position 2 outputs 0 and position 3 begins with no memory but of x."""
    layer, x = cases.drawn("lstm"), cases.numbers(2, 5, 5)

    def empty(cell: torch.Tensor) -> torch.Tensor:
        return torch.cat((cell[:, :2], torch.zeros_like(cell[:, 2:3]), cell[:, 3:]), 1)

    with intervene(layer, {"cell": empty}), capture(layer, ["hidden", "cell"]) as seen:
        y = layer(x)[0]
    assert float(y[:, 2].detach().abs().max()) == 0
    rest, _ = layer(x[:, 3:], (torch.zeros(2, 5, dtype=x.dtype), torch.zeros(2, 5, dtype=x.dtype)))
    torch.testing.assert_close(y[:, 3:], rest, rtol=1e-12, atol=1e-12)
    assert seen["cell"].shape == seen["hidden"].shape == (2, 5, 5)


def test_initial_weights() -> None:
    orthogonal = cases.initialised(LSTMConfig(width=48))
    cases.assert_orthogonal(orthogonal["weight_hh"])
    cases.assert_uniform(orthogonal["weight_ih"], math.sqrt(6 / (5 * 48)))
    assert not orthogonal["bias_ih"].any()
    assert not orthogonal["bias_hh"].any()
    for values in cases.initialised(LSTMConfig(width=48, recurrent_init="uniform")).values():
        cases.assert_uniform(values, 48**-0.5)


@pytest.mark.parametrize("scheme", ["orthogonal", "uniform"])
def test_the_forget_bias_is_added_to_the_forget_gate_alone(scheme: str) -> None:
    plain = cases.initialised(LSTMConfig(width=6, recurrent_init=scheme))
    raised = cases.initialised(LSTMConfig(width=6, recurrent_init=scheme, forget_bias=1.5))
    difference = raised.pop("bias_ih") - plain.pop("bias_ih")
    torch.testing.assert_close(difference, torch.tensor([0.0] * 6 + [1.5] * 6 + [0.0] * 12))
    assert all(torch.equal(raised[name], plain[name]) for name in plain)


def test_runs_that_differ_in_their_beginning_can_be_stacked() -> None:
    assert {"init", "init_std", "recurrent_init", "forget_bias"} <= LSTMConfig.SHAPELESS


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("recurrent_init", "identity", "orthogonal"), ("bidirectional", True, "bidirectional"), ("width", 0, "width = 0")],
)
def test_what_cannot_be_is_refused(key: str, value: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        resolve(LSTMConfig, {key: value})
