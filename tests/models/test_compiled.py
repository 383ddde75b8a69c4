"""Compiled loss and gradients against autograd's, and a member's bits against its company."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformer_cases import Seeds, config

from inlearn.core.spaces import Interface, Vectors
from inlearn.models.compiled import CompiledGradients, NotCompiled
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack

ROWS, STEPS, SCORED = 4, 7, slice(0, 7, 2)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch._dynamo.reset()


def model_of(members: list[int]) -> torch.nn.Module:
    solo = []
    for member in members:
        solo.append(
            config(layers=1, activation="relu", residual="double").build(Interface(Vectors(5), Vectors(5), STEPS))
        )
        initialise(solo[-1], Seeds(init=member))
    return stack(solo)


def data_of(members: list[int]) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (
        torch.randn(16, ROWS, STEPS, 5, generator=generator),
        torch.randn(16, ROWS * 4, generator=generator),
    )
    return inputs[members], targets[members]


def losses_of(model: torch.nn.Module):
    def losses(parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs, _ = torch.func.functional_call(model, parameters, (inputs,), {"scored": SCORED})
        return (outputs[..., 0] - targets).square().mean(-1)

    return losses


def trained(members: list[int]) -> Tensor:
    model = model_of(members)
    flat = FlatParameters(model)
    gradients = CompiledGradients(flat, losses_of(model))
    optimiser = torch.optim.Adam(flat.rows, lr=0.01, fused=True)
    for _ in range(5):
        flat.zero()
        gradients(*data_of(members))
        optimiser.step()
    return flat.values.detach()


@pytest.mark.slow  # the C++ compiler takes 10 s on a quiet core, and a minute on a busy one
def test_losses_and_gradients_are_those_of_autograd_and_are_added(one_thread) -> None:
    members = [0, 1, 2]
    model = model_of(members)
    flat, losses = FlatParameters(model), losses_of(model)
    expected = losses(flat.named(flat.values), *data_of(members))
    expected.sum().backward()
    own = flat.gradients.clone()
    compiled = CompiledGradients(flat, losses)
    for times in (2, 3):  # the second call runs what the first compiled
        torch.testing.assert_close(compiled(*data_of(members)), expected.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(flat.gradients, times * own, rtol=1e-4, atol=1e-5)
    assert own.abs().amax(1).min() > 0


@pytest.mark.slow
def test_a_compiled_member_has_the_same_bits_in_any_company(one_thread) -> None:
    alone = trained([0])[0]
    for company in ([3, 0, 2, 1], list(range(15, -1, -1))):
        assert torch.equal(trained(company)[company.index(0)], alone)


@pytest.mark.slow
def test_a_process_compiles_as_many_as_it_meets(one_thread, monkeypatch) -> None:
    monkeypatch.setattr("torch._dynamo.config.recompile_limit", 1)  # of one function; a sweep's worker meets many
    for width in (2, 3):
        model = torch.nn.Linear(width, 1)
        flat = FlatParameters(model)

        def losses(parameters: dict[str, Tensor], inputs: Tensor, model: torch.nn.Module = model) -> Tensor:
            return torch.func.functional_call(model, parameters, (inputs,)).sum()

        CompiledGradients(flat, losses)(torch.ones(4, width))
        assert flat.gradients.eq(4).all()


def test_what_cannot_be_compiled_is_one_line(one_thread) -> None:
    flat = FlatParameters(model_of([0]))

    def looks_at_numbers(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return inputs.sum() * parameters["head.bias"].sum((-1,)) if bool(inputs.sum() > 0) else inputs.sum()[None]

    with pytest.raises(NotCompiled) as caught:
        CompiledGradients(flat, looks_at_numbers)(torch.ones(3))
    assert "\n" not in str(caught.value)
    assert flat.gradients.eq(0).all()
