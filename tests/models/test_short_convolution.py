"""The short convolution against its formula. Members 3, rows 5, positions 7, channels 6, taps 4: all different."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformer_cases import Seeds

from inlearn.core.draws import Address
from inlearn.models.flat import FlatParameters
from inlearn.models.leaves import stack
from inlearn.models.short_convolution import ShortConvolution


def drawn(seed: int = 0, width: int = 6, kernel: int = 4, bias: bool = True) -> ShortConvolution:
    convolution, at = ShortConvolution(width, kernel, bias), Address(Seeds(seed), "init")
    with torch.no_grad():
        for name, parameter in convolution.named_parameters():
            parameter.copy_(convolution.own_laws()[name].draw(at.key(name), tuple(parameter.shape)))
    return convolution.double()


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [1, 4])
def test_against_the_formula_and_conv1d(kernel: int, bias: bool) -> None:
    convolution, x = drawn(kernel=kernel, bias=bias).requires_grad_(False), some(5, 7, 6)
    y, state = convolution(x)
    for n, t, c in ((0, 0, 0), (4, 1, 3), (2, 6, 5)):
        past = [float(x[n, t - k, c]) if t >= k else 0.0 for k in range(kernel)]
        expected = sum(p * float(convolution.weight[c, kernel - 1 - k]) for k, p in enumerate(past))
        assert float(y[n, t, c]) == pytest.approx(expected + (float(convolution.bias[c]) if bias else 0.0), abs=1e-14)
    theirs = F.conv1d(F.pad(x.mT, (kernel - 1, 0)), convolution.weight[:, None], convolution.bias, groups=6).mT
    torch.testing.assert_close(y, theirs, rtol=1e-13, atol=1e-13)
    assert torch.equal(state, x[:, 7 - (kernel - 1) :])


@pytest.mark.parametrize("parts", [(7,), (1, 6), (2, 5), (1,) * 7])
def test_parts_are_the_whole(parts: tuple[int, ...]) -> None:
    convolution, x = drawn(), some(5, 7, 6)
    state, pieces = None, []
    for part in x.split(parts, 1):
        y, state = convolution(part, state)
        pieces.append(y)
    whole, last = convolution(x)
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert torch.equal(state, last)


def test_members_are_their_solo_models_and_vmap() -> None:
    solo = [drawn(e) for e in range(3)]
    model, x, state = stack(solo), some(3, 5, 7, 6), some(3, 5, 3, 6)
    y, last = model(x, state)
    (y.square().sum() + last.square().sum()).backward()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    mapped = torch.func.vmap(lambda p, *a: torch.func.functional_call(solo[0], p, a))(parameters, x, state)
    torch.testing.assert_close(mapped, (y, last), rtol=1e-12, atol=1e-12)
    for e, alone in enumerate(solo):
        own, own_last = alone(x[e], state[e])
        (own.square().sum() + own_last.square().sum()).backward()
        torch.testing.assert_close((y[e], last[e]), (own, own_last), rtol=0, atol=0)
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(getattr(model, name).grad[e], parameter.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("members", [0, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_gradients(members: int, bias: bool) -> None:
    convolution = stack([drawn(e, 2, 3, bias) for e in range(members)]) if members else drawn(0, 2, 3, bias)
    lead = (members,) if members else ()
    x, state = some(*lead, 3, 4, 2).requires_grad_(), some(*lead, 3, 2, 2).requires_grad_()
    names, values = zip(*convolution.named_parameters(), strict=True)

    def function(*given: torch.Tensor) -> torch.Tensor:
        weights = dict(zip(names, given[2:], strict=True))
        return torch.func.functional_call(convolution, weights, given[:2])

    given = (x, state, *(value.detach().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(function, given)
    assert torch.autograd.gradgradcheck(function, given)


def test_a_member_has_the_same_bits_in_any_company() -> None:
    x = some(4, 5, 7, 33).float()
    seen = []
    for company in ([0], [0, 1, 2], [3, 2, 1, 0]):
        model = stack([drawn(e, 33).float() for e in company])
        flat = FlatParameters(model)
        model(x[company])[0].square().sum().backward()
        seen.append(flat.gradients[company.index(0)].clone())
    assert all(torch.equal(seen[0], other) for other in seen)


def test_under_autocast_it_computes_in_the_precision_of_its_weights() -> None:
    convolution, x = drawn().float(), some(5, 7, 6).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, state = convolution(x.bfloat16())
    assert y.dtype == state.dtype == torch.float32
    assert torch.equal(y, convolution(x.bfloat16().float())[0])
