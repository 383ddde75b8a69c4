"""Caches and forks against the literal form, in which every row carries its whole sequence."""

from __future__ import annotations

import pytest
import torch
from transformer_cases import CASES, built, some_inputs, stacked

TOLERANCES = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
every_case = pytest.mark.parametrize("case", CASES)
precisions = pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)


@every_case
@precisions
def test_one_position_at_a_time_equals_all_at_once(case: str, dtype: torch.dtype, tolerance: float) -> None:
    model, inputs = built(case, dtype=dtype), some_inputs(case, 3, 7, dtype=dtype)
    state, outputs = None, []
    for t in range(7):
        output, state = model(inputs[:, t : t + 1], state)
        outputs.append(output)
    assert state.length == 7
    torch.testing.assert_close(torch.cat(outputs, 1), model(inputs)[0], rtol=tolerance, atol=tolerance)


@every_case
@precisions
@pytest.mark.parametrize("explicit", [False, True], ids=["shared", "hooked"])
def test_forks_of_forks_equal_the_unshared_form(
    case: str, dtype: torch.dtype, tolerance: float, explicit: bool
) -> None:
    """2 contexts, each continued by 3 rows, each of those by 2; the last ones go on as an ordinary cache."""
    model = built(case, dtype=dtype)
    a, b, c, d = (some_inputs(case, n, s, seed=n + s, dtype=dtype) for n, s in ((2, 4), (6, 3), (12, 2), (12, 1)))
    if explicit:
        model.blocks[0].attention.pattern.register_forward_hook(lambda module, inputs, output: None)
    state = None
    for part in (a, b, c, d):
        outputs, state = model(part, state)
    whole = torch.cat((a.repeat_interleave(6, 0), b.repeat_interleave(2, 0), c, d), 1)
    torch.testing.assert_close(outputs, model(whole)[0][:, 9:], rtol=tolerance, atol=tolerance)


@every_case
def test_scored_positions_of_a_fork(case: str) -> None:
    model, context, own = built(case), some_inputs(case, 2, 4), some_inputs(case, 6, 3, seed=1)
    state = model(context)[1]
    full = model(own, state)[0].flatten(0, 1)
    for scored in (torch.arange(1, 18, 3), torch.tensor([0, 5, 6])):
        torch.testing.assert_close(model(own, state, scored)[0], full[scored], rtol=1e-12, atol=1e-12)


@every_case
def test_gradients_pass_through_a_fork_into_the_context(case: str) -> None:
    model, context, own = built(case), some_inputs(case, 2, 4), some_inputs(case, 6, 3, seed=1)
    parameters = list(model.parameters())
    shared = model(own, model(context)[1])[0].square().sum()
    literal = model(torch.cat((context.repeat_interleave(3, 0), own), 1))[0][:, 4:].square().sum()
    for a, b in zip(*(torch.autograd.grad(loss, parameters) for loss in (shared, literal)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@every_case
def test_a_stack_forks_member_by_member(case: str) -> None:
    model, solo = stacked(case, 3)
    contexts = torch.stack([some_inputs(case, 2, 4, seed=e) for e in range(3)])
    own = torch.stack([some_inputs(case, 4, 3, seed=9 + e) for e in range(3)])
    outputs = model(own, model(contexts)[1])[0]
    for e in range(3):
        alone = solo[e](own[e], solo[e](contexts[e])[1])[0]
        torch.testing.assert_close(outputs[e], alone, rtol=1e-11, atol=1e-11)


def test_a_state_is_not_changed_by_continuing_it() -> None:
    model, inputs = built("llama"), some_inputs("llama", 2, 7)
    state = model(inputs[:, :4])[1]
    first = model(inputs[:, 4:], state)[0]
    model(some_inputs("llama", 4, 2, seed=3), state)
    assert torch.equal(model(inputs[:, 4:], state)[0], first)


def test_rows_that_do_not_divide_are_refused() -> None:
    model = built("llama")
    state = model(some_inputs("llama", 2, 3))[1]
    with pytest.raises(ValueError, match="3 rows cannot continue the 2 rows"):
        model(some_inputs("llama", 3, 2), state)
