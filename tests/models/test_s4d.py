"""S4D. Members 3, rows 5, channels 2, 3 conjugate pairs; lengths cross chunks of 64."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformer_cases import Seeds
from zoo_cases import VECTORS, built, compiles_to_one_function

from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.recurrence import sequential
from inlearn.models.s4d import S4D
from inlearn.models.s4d_config import S4DConfig


def mixer(seed: int = 0, **fields: object) -> S4D:
    model = S4D(S4DConfig(**{"width": 2, "state": 6, **fields})).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.log_dt -= 2
    return model


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


# ---------------------------------------------------------------- the paper's formulas, number by number


def by_hand(model: S4D, x: list[list[float]]) -> tuple[list[list[float]], list[list[complex]]]:
    """Zero-order hold and the recurrence for one row x[t][c]: outputs and h[c][m]."""
    p = {name: parameter.tolist() for name, parameter in model.named_parameters()}
    width, pairs = len(p["D"]), len(p["frequency"][0])
    h = [[0j] * pairs for _ in range(width)]
    outputs = []
    for now in x:
        hidden = []
        for c in range(width):
            dt, y = math.exp(p["log_dt"][c]), p["D"][c] * now[c]
            for m in range(pairs):
                A = complex(-math.exp(p["log_decay"][c][m]), p["frequency"][c][m])
                decay = cmath.exp(dt * A)
                h[c][m] = decay * h[c][m] + (decay - 1) / A * now[c]
                y += 2 * (complex(p["C"][c][0][m], p["C"][c][1][m]) * h[c][m]).real
            hidden.append(y * (1 + math.erf(y / math.sqrt(2))) / 2)
        both = [
            sum(w * v for w, v in zip(row, hidden, strict=True)) + b
            for row, b in zip(p["o.weight"], p["o.bias"], strict=True)
        ]
        outputs.append([both[c] / (1 + math.exp(-both[width + c])) for c in range(width)])
    return outputs, h


@pytest.mark.parametrize("form", ["fast", "literal"])
def test_against_the_formulas_by_hand(form: str) -> None:
    model, x = mixer(), some(2, 67, 2)
    if form == "literal":
        with sequential():
            y, (h,) = model(x, None, 0)
    else:
        y, (h,) = model(x, None, 0)
    for n in range(2):
        outputs, states = by_hand(model, x[n].tolist())
        torch.testing.assert_close(y[n], torch.tensor(outputs, dtype=torch.float64), rtol=1e-11, atol=1e-11)
        found = torch.complex(*h[n].chunk(2, -1))
        torch.testing.assert_close(found, torch.tensor(states, dtype=torch.complex128), rtol=1e-11, atol=1e-11)


def test_against_a_convolution_by_fourier_transform() -> None:
    """The kernel at all lags, and the product of spectra: neither chunks nor states."""
    model, u = mixer(width=3), some(5, 200, 3)
    y, _ = model._chunked(u, torch.zeros(5, 3, 6, dtype=torch.float64))
    A = torch.complex(-model.log_decay.exp(), model.frequency)
    dt, C = model.log_dt.exp()[:, None], torch.complex(*model.C.unbind(1))
    lags = torch.exp((dt * A)[..., None] * torch.arange(200))
    kernel = 2 * ((C * (torch.exp(dt * A) - 1) / A)[..., None] * lags).sum(1).real
    spectrum = torch.fft.rfft(u.mT, n=400) * torch.fft.rfft(kernel, n=400)
    torch.testing.assert_close(y, torch.fft.irfft(spectrum, n=400)[..., :200].mT, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- chunks


@pytest.mark.parametrize("lead", [(), (3,)], ids=["solo", "stacked"])
@pytest.mark.parametrize("steps", [2, 63, 64, 65, 130])
def test_chunks_and_their_gradients(steps: int, lead: tuple[int, ...]) -> None:
    model = stack([mixer(e) for e in range(3)]) if lead else mixer()
    x, state = some(*lead, 5, steps, 2).requires_grad_(), some(*lead, 5, 2, 6).requires_grad_()
    fast, (last,) = model(x, (state,), 0)
    with sequential():
        slow, (other,) = model(x, (state,), 0)
    torch.testing.assert_close((fast, last), (slow, other), rtol=1e-10, atol=1e-10)
    given = [x, state, *model.parameters()]
    weights = [torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part) for part in (fast, last)]
    found, wanted = (
        torch.autograd.grad((y * weights[0]).sum() + (h * weights[1]).sum(), given)
        for y, h in ((fast, last), (slow, other))
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)


def test_first_and_second_derivatives_by_finite_differences() -> None:
    model, x, state = mixer(width=1, state=2), some(2, 3, 1).requires_grad_(), some(2, 1, 2).requires_grad_()
    named = {name: parameter.detach().requires_grad_() for name, parameter in model.named_parameters()}

    def outputs(x: Tensor, state: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        weights = dict(zip(named, values, strict=True))
        y, (h,) = torch.func.functional_call(model, weights, (x, (state,), 0))
        return y, h

    given = (x, state, *named.values())
    assert torch.autograd.gradcheck(outputs, given)
    assert torch.autograd.gradgradcheck(outputs, given, fast_mode=True)


def test_members_of_a_literal_stack_and_vmap() -> None:
    solo = [mixer(e) for e in range(3)]
    model, x, state = stack(solo), some(3, 5, 70, 2), some(3, 5, 2, 6)
    y, last = model(x, (state,), 0)

    def alone(parameters: dict[str, Tensor], x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        with sequential():
            y, (h,) = torch.func.functional_call(solo[0], parameters, (x, (state,), 0))
        return y, h

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    mapped = torch.func.vmap(alone)(parameters, x, state)
    torch.testing.assert_close(mapped, (y, *last), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("width", "rows", "steps"), [(1, 1, 65), (7, 3, 2), (5, 1, 20), (33, 2, 67)])
def test_a_member_has_the_same_bits_in_any_company(width: int, rows: int, steps: int) -> None:
    x = some(4, rows, steps, width).float()

    def first_of(company: list[int]) -> list[Tensor]:
        model = stack([mixer(e, width=width).float() for e in company])
        y, (h,) = model(x[company], None, 0)
        (y.square().sum() + h.square().sum()).backward()
        return [part[company.index(0)] for part in (y, h, *(p.grad for p in model.parameters()))]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, *others = [first_of(company) for company in ([0], [2, 1, 0], [3, 0, 2, 1])]
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(alone, other, strict=True))


# ---------------------------------------------------------------- numbers


def test_small_steps_lose_no_digits_in_single_precision() -> None:
    """exp(dt A) - 1 would keep three digits of seven at dt |A| = 5e-4."""
    model = mixer(state=64).requires_grad_(False)
    with torch.no_grad():
        model.log_dt.fill_(math.log(1e-3))
        model.log_decay.fill_(math.log(0.5))
        model.frequency.copy_(math.pi * torch.arange(32))
    exact = torch.complex(*model._input(model._rates()))
    single = model.float()
    found = torch.complex(*single._input(single._rates()))
    assert float(((found - exact) / exact).abs().max()) < 1e-6


def test_strong_decays_and_long_sequences_stay_finite() -> None:
    model, x = mixer().float(), some(2, 300, 2).float()
    with torch.no_grad():
        model.log_decay.fill_(8.0)
    y, (h,) = model(x, None, 0)
    y.square().sum().backward()
    assert torch.isfinite(y).all()
    assert torch.isfinite(h).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_it_begins_as_published() -> None:
    model = S4DConfig(width=64, layers=1).build(VECTORS)
    initialise(model, Seeds())
    own = model.requires_grad_(False).blocks[0].mixer
    dt = own.log_dt.exp()
    assert 1e-3 <= float(dt.min()) < 2e-3
    assert 0.05 < float(dt.max()) <= 0.1
    torch.testing.assert_close(-own.log_decay.exp(), torch.full((64, 32), -0.5))
    torch.testing.assert_close(own.frequency, (math.pi * torch.arange(32)).expand(64, 32))
    assert float(own.C.square().sum(1).mean()) == pytest.approx(1.0, abs=0.05)
    assert float(own.D.std()) == pytest.approx(1.0, abs=0.25)


def test_dropout_is_drawn_before_the_read_out_too() -> None:
    assert {name for name, _ in built("s4d", VECTORS, dropout=0.5).named_modules() if name.endswith("dropout")} == {
        "dropout",
        *(f"blocks.{layer}.{part}dropout" for layer in (0, 1) for part in ("", "mixer.")),
    }


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"state": 7}, "state = 7 is odd; expected an even number"),
        ({"state": 0}, "greater than 0"),
        ({"dt_min": 0.2}, "dt_min = 0.2 is above dt_max = 0.1"),
        ({"bidirectional": True}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        S4DConfig(**fields)


@pytest.mark.slow  # a C++ compiler
def test_it_compiles_to_one_function() -> None:
    compiles_to_one_function("s4d", 70)
