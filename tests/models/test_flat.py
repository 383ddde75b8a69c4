from __future__ import annotations

import pytest
import torch
from transformer_cases import CASES, built, some_inputs, stacked

from inlearn.models.flat import FlatParameters

every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_parameters_and_gradients_are_views_of_two_buffers(case: str) -> None:
    model, reference, inputs = built(case), built(case), some_inputs(case, 3, 7)
    flat = FlatParameters(model)
    model(inputs)[0].square().sum().backward()
    reference(inputs)[0].square().sum().backward()
    own = dict(reference.named_parameters())
    assert flat.layout == [(name, tuple(p.shape)) for name, p in reference.named_parameters()]
    assert torch.equal(flat.values, torch.cat([p.detach().flatten() for p in own.values()]))
    assert torch.equal(flat.gradients, torch.cat([p.grad.flatten() for p in own.values()]))
    assert flat.values.grad is flat.gradients
    for name, parameter in model.named_parameters():
        assert parameter.untyped_storage().data_ptr() == flat.values.untyped_storage().data_ptr()
        assert torch.equal(flat.named(flat.gradients)[name], own[name].grad)
    flat.zero()
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_fused_adam_on_the_buffer_equals_adam_on_each_parameter() -> None:
    model, reference, inputs = built("tied"), built("tied"), some_inputs("tied", 3, 7)
    flat = FlatParameters(model)
    fused = torch.optim.AdamW([flat.values], lr=0.01, weight_decay=0.1, fused=True)
    plain = torch.optim.AdamW(reference.parameters(), lr=0.01, weight_decay=0.1, foreach=False)
    for _ in range(5):
        flat.zero()
        plain.zero_grad()
        for each in (model, reference):
            each(inputs)[0].square().mean().backward()
        fused.step()
        plain.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    assert model.head.weight is model.embedding.weight


def test_a_stack_has_one_row_a_member() -> None:
    model, solo = stacked("regression", 3)
    flat = FlatParameters(model)
    inputs = torch.stack([some_inputs("regression", 5, 7, seed=e) for e in range(3)])
    model(inputs)[0].square().sum().backward()
    assert flat.values.shape == (3, sum(p.numel() for p in solo[0].parameters()))
    for e, alone in enumerate(solo):
        alone(inputs[e])[0].square().sum().backward()
        assert torch.equal(flat.rows[e], torch.cat([p.detach().flatten() for p in alone.parameters()]))
        own = torch.cat([p.grad.flatten() for p in alone.parameters()])
        torch.testing.assert_close(flat.rows[e].grad, own, rtol=1e-9, atol=1e-9)


def test_an_update_of_one_row_moves_one_member() -> None:
    model, _ = stacked("regression", 3)
    flat = FlatParameters(model)
    before = flat.values.detach().clone()
    flat.gradients.fill_(1.0)
    torch.optim.SGD([flat.rows[1]], lr=0.5).step()
    torch.testing.assert_close(flat.values, before - 0.5 * torch.tensor([0.0, 1.0, 0.0], dtype=before.dtype)[:, None])
    assert torch.equal(model.head.bias[1], before[1, -5:] - 0.5)


def test_gradients_accumulate_over_backward_passes() -> None:
    model, inputs = built("regression"), some_inputs("regression", 4, 7)
    flat = FlatParameters(model)
    model(inputs)[0].sum().backward()
    whole = flat.gradients.clone()
    flat.zero()
    for rows in (inputs[:1], inputs[1:]):
        model(rows)[0].sum().backward()
    torch.testing.assert_close(flat.gradients, whole, rtol=1e-11, atol=1e-11)
