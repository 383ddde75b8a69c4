"""A stack against its solo models. Members 3, rows 5, positions 7, width 8: all different, so nothing can broadcast."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformer_cases import CASES, Seeds, config, some_inputs, stacked

from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.lab import discovery
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.leaves import Linear, anywhere, members, stack
from inlearn.models.recurrence import sequential

every_case = pytest.mark.parametrize("case", CASES)


def batches_of(case: str, count: int) -> torch.Tensor:
    return torch.stack([some_inputs(case, 5, 7, seed=e) for e in range(count)])


@every_case
@pytest.mark.parametrize(
    "scored", [None, torch.arange(1, 35, 7), torch.tensor([0, 9, 30])], ids=["all", "grid", "some"]
)
def test_a_stack_computes_what_its_members_do_alone(case: str, scored: torch.Tensor | None) -> None:
    model, solo = stacked(case, 3)
    inputs = batches_of(case, 3)
    outputs, _ = model(inputs, scored=scored)
    outputs.square().sum().backward()
    for e, alone in enumerate(solo):
        own, _ = alone(inputs[e], scored=scored)
        own.square().sum().backward()
        torch.testing.assert_close(outputs[e], own, rtol=1e-11, atol=1e-11)
        grown = dict(model.named_parameters())
        for name, parameter in alone.named_parameters():
            assert grown[name].shape == (3, *parameter.shape)
            torch.testing.assert_close(grown[name].grad[e], parameter.grad, rtol=1e-9, atol=1e-9)


def test_stack_leaves_its_members_alone_and_keeps_ties() -> None:
    model, solo = stacked("tied", 3)
    assert members(model) == 3
    assert members(solo[0]) is None
    assert model.head.weight is model.embedding.weight
    with torch.no_grad():
        model.head.weight.zero_()
    assert solo[0].head.weight.abs().sum() > 0


def test_a_linear_leaf_with_members_meets_each_with_its_own() -> None:
    leaves = [Linear(3, 2) for _ in range(2)]
    for leaf, value in zip(leaves, (1.0, 10.0), strict=True):
        torch.nn.init.constant_(leaf.weight, value)
        torch.nn.init.constant_(leaf.bias, value)
    assert stack(leaves)(torch.ones(2, 4, 3)).tolist() == [[[4.0, 4.0]] * 4, [[40.0, 40.0]] * 4]


def test_a_member_has_the_same_bits_in_any_company() -> None:
    """Six Adam steps, alone and in companies of 1, 4 and 16, at one thread."""
    interface = Interface(Vectors(5), Vectors(5, answers=1), 16)
    inputs, scored = torch.randn(16, 8, 16, 5, generator=torch.Generator().manual_seed(0)), torch.arange(0, 128, 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = {tuple(company): _trained(interface, inputs, scored, company)[company.index(0)]
                for company in ([0], [3, 0, 2, 1], list(range(15, -1, -1)))}  # fmt: skip
    finally:
        torch.set_num_threads(threads)
    alone, *others = rows.values()
    assert all(torch.equal(alone, other) for other in others)


def _trained(interface: Interface, inputs: torch.Tensor, scored: torch.Tensor, company: list[int]) -> torch.Tensor:
    solo = []
    for member in company:
        solo.append(config(width=16, mlp=16, activation="relu", residual="double").build(interface))
        initialise(solo[-1], Seeds(init=member))
    model = stack(solo)
    flat = FlatParameters(model)
    optimiser = torch.optim.Adam([{"params": [row]} for row in flat.rows], lr=0.01, fused=True)
    for _ in range(6):
        flat.zero()
        model(inputs[company], scored=scored)[0].square().mean((1, 2)).sum().backward()
        norm = torch.linalg.vector_norm(flat.gradients, dim=1, keepdim=True)
        flat.gradients.div_(norm.clamp(min=1.0))
        optimiser.step()
    return flat.values.detach()


# ---------------------------------------------------------------- every registered model, with vmap as a second opinion

PROBLEMS = {
    "vectors": Interface(Vectors(5), Vectors(5, answers=1), 9),
    "tokens": Interface(Tokens(11), Tokens(6), 9),
    "one-column": Interface(Vectors(1), Vectors(1), 9),  # parameters with one column, and with one row
}


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("kind", discovery.models())
def test_every_registered_model_stacks(kind: str, problem: str) -> None:
    """A stack's outputs and gradients are those of its members alone, and those of torch's own member axis."""
    interface, generator = PROBLEMS[problem], torch.Generator().manual_seed(0)
    solo = [moved(discovery.models()[kind]().build(interface), e) for e in range(3)]
    if isinstance(interface.inputs, Tokens):
        inputs = torch.randint(interface.inputs.size, (3, 5, 7), generator=generator)
    else:
        inputs = torch.randn(3, 5, 7, interface.inputs.dim, generator=generator, dtype=torch.float64)
    model = stack(solo)
    outputs, _ = model(inputs)
    outputs.square().sum().backward()

    def alone(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(solo[0], parameters, (x,))[0]

    stacked_parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with sequential():  # torch's vmap knows no library kernels, and the literal form is a second opinion
        mapped = torch.func.vmap(alone)(stacked_parameters, inputs)
        torch.testing.assert_close(mapped, outputs, rtol=1e-11, atol=1e-11)
        squares = torch.func.grad(lambda p, x: alone(p, x).square().sum())
        gradients = torch.func.vmap(squares)(stacked_parameters, inputs)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-9)
    for e, member in enumerate(solo):
        own, _ = member(inputs[e])
        own.square().sum().backward()
        torch.testing.assert_close(outputs[e], own, rtol=1e-11, atol=1e-11)
        grown = dict(model.named_parameters())
        for name, parameter in member.named_parameters():
            torch.testing.assert_close(grown[name].grad[e], parameter.grad, rtol=1e-9, atol=1e-9)


def moved(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Initialised, with every parameter moved off 0 and 1, so that each part matters."""
    initialise(model, Seeds(seed))
    model, generator = model.double(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


@pytest.mark.parametrize("function", [F.gelu, partial(F.gelu, approximate="tanh"), F.silu, torch.sigmoid])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_number_has_the_same_bits_wherever_it_stands(function, dtype) -> None:
    same, generator = anywhere(function), torch.Generator().manual_seed(0)
    x = (3 * torch.randn(4, 131, 3, generator=generator)).to(dtype)
    weight = torch.randn(4, 131, 3, generator=generator).to(dtype)

    def values_and_gradients(x: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
        x = x.clone().requires_grad_()
        y = same(x)
        (gradient,) = torch.autograd.grad((y * weight).sum(), x)
        return [y.detach(), gradient]

    torch.testing.assert_close(same(x), function(x))
    whole = values_and_gradients(x, weight)
    for part in (np.s_[2:3], np.s_[1:4, :7], np.s_[3, 5:, :1], np.s_[0, 0, :1]):  # strided ones too
        for whole, cut in zip(
            values_and_gradients(x, weight), values_and_gradients(x[part], weight[part]), strict=True
        ):
            assert torch.equal(whole[part], cut)
