"""Mamba and its selective scan. Members 3, rows 5, inner channels 4, states 3; lengths cross chunks of 16."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformer_cases import Seeds
from zoo_cases import VECTORS, built, compiles_to_one_function, some_inputs

from inlearn.models import selective_scan as scan
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.mamba import Mamba
from inlearn.models.mamba_config import MambaConfig
from inlearn.models.recurrence import sequential
from inlearn.models.selective_scan import selective_scan


def mixer(seed: int = 0, **fields: object) -> Mamba:
    model = Mamba(MambaConfig(**{"width": 2, "state": 3, "kernel": 3, "dt_rank": 2, **fields})).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


# ---------------------------------------------------------------- the paper's formulas, number by number


def by_hand(model: Mamba, x: list[list[float]]) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """Algorithm 2 and figure 3 of the paper for one row x[t][c]: outputs, h[i][s], last inputs of the convolution."""
    p = {name: parameter.tolist() for name, parameter in model.named_parameters()}
    inner, states, rank, kernel = len(p["D"]), len(p["A_log"][0]), len(p["dt_weight"][0]), 3

    def times(matrix: list[list[float]], vector: list[float]) -> list[float]:
        return [sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix]

    def silu(a: float) -> float:
        return a / (1 + math.exp(-a))

    h = [[0.0] * states for _ in range(inner)]
    past = [[0.0] * inner for _ in range(kernel - 1)]
    outputs = []
    for now in x:
        projected = times(p["in_proj.weight"], now)
        window = [*past, projected[:inner]]
        past = window[1:]
        u = []
        for i in range(inner):
            convolved = sum(p["convolution.weight"][i][k] * window[k][i] for k in range(kernel))
            u.append(silu(convolved + p["convolution.bias"][i]))
        selection = times(p["x_proj.weight"], u)
        low, B, C = selection[:rank], selection[rank : rank + states], selection[rank + states :]
        raw = times(p["dt_weight"], low)
        mixed = []
        for i in range(inner):
            delta = math.log1p(math.exp(raw[i] + p["dt_bias"][i]))
            for s in range(states):
                h[i][s] = math.exp(-delta * math.exp(p["A_log"][i][s])) * h[i][s] + delta * B[s] * u[i]
            y = sum(C[s] * h[i][s] for s in range(states)) + p["D"][i] * u[i]
            mixed.append(y * silu(projected[inner + i]))
        outputs.append(times(p["o.weight"], mixed))
    return outputs, h, past


@pytest.mark.parametrize("form", ["fast", "literal"])
def test_against_the_formulas_by_hand(form: str) -> None:
    model, x = mixer(), some(2, 19, 2)
    if form == "literal":
        with sequential():
            y, (past, h) = model(x, None, 0)
    else:
        y, (past, h) = model(x, None, 0)
    for n in range(2):
        expected = by_hand(model, x[n].tolist())
        for value, wanted in zip((y[n], h[n], past[n]), expected, strict=True):
            torch.testing.assert_close(value, torch.tensor(wanted, dtype=torch.float64), rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------- the scan


def literal(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    y = []
    for t in range(u.shape[-2]):
        step = delta[..., t, :, None]
        h = torch.exp(step * A.unsqueeze(-3)) * h + step * u[..., t, :, None] * B[..., t, None, :]
        y.append((h * C[..., t, None, :]).sum(-1))
    return torch.stack(y, -2), h


def scanned(*lead: int, rows: int = 5, steps: int = 7, inner: int = 4, states: int = 3) -> list[Tensor]:
    """u, delta, A, B, C, state."""
    coefficients = some(*lead, rows, steps, states), some(*lead, rows, steps, states).cos()
    delta, A = some(*lead, rows, steps, inner).exp() / 3, -some(*lead, inner, states).exp()
    given = [some(*lead, rows, steps, inner), delta, A, *coefficients, some(*lead, rows, inner, states)]
    return [x.requires_grad_() for x in given]


@pytest.mark.parametrize("lead", [(), (3,)], ids=["solo", "stacked"])
@pytest.mark.parametrize("steps", [1, 2, 16, 17, 50])
def test_the_scan_and_its_gradients(steps: int, lead: tuple[int, ...]) -> None:
    given = scanned(*lead, steps=steps)
    fast, slow = selective_scan(*given), literal(*given)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    weights = [torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x) for x in fast]
    for outputs in ((0, 1), (0,), (1,)):  # a loss may ask for one of the two alone
        losses = [sum((pair[i] * weights[i]).sum() for i in outputs) for pair in (fast, slow)]
        asked = [i for i in range(6) if (i, outputs) != (4, (1,))]  # C does not enter the last state
        found, wanted = (
            torch.autograd.grad(loss, [given[i] for i in asked], retain_graph=True, materialize_grads=True)
            for loss in losses
        )
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


def test_the_scan_by_finite_differences() -> None:
    assert torch.autograd.gradcheck(selective_scan, scanned(2, rows=2, steps=18, inner=2, states=2), fast_mode=True)
    assert torch.autograd.gradcheck(selective_scan, scanned(rows=2, steps=3, inner=2, states=2))


def test_the_scan_says_that_it_has_no_second_derivative() -> None:
    given = scanned()
    (gradient,) = torch.autograd.grad(selective_scan(*given)[0].square().sum(), given[0], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        gradient.sum().backward()


def test_no_more_is_kept_than_the_states_between_chunks() -> None:
    """States of all positions are 16 times as much as what the scan keeps of them."""
    u, delta, A, B, C, state = scanned(rows=2, steps=320, inner=32, states=16)
    kept = 0

    def pack(x: Tensor) -> Tensor:
        nonlocal kept
        kept += x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(u, delta, A, B, C, state)
    inputs = sum(x.numel() for x in (u, delta, A, B, C))
    assert kept - inputs == 2 * 320 // scan.CHUNK * 32 * 16


def test_decays_that_vanish_and_steps_that_are_zero() -> None:
    u, delta, A, B, C, state = scanned(steps=20)
    with torch.no_grad():
        delta[..., 0] = 0.0  # nothing happens
        delta[..., 1] = 1e4  # everything is forgotten
        delta[:, 3, 2] = 200.0
    fast, slow = (function(u, delta, A, B, C, state) for function in (selective_scan, literal))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fast[1][..., 0, :], state[..., 0, :], rtol=0, atol=0)
    gradients = torch.autograd.grad(fast[0].sum(), (u, delta, A, B, C, state))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("sizes", [(5, 7, 4, 3), (3, 5, 4, 3), (1, 17, 1, 1), (3, 1, 33, 5), (2, 33, 7, 16)], ids=str)
def test_a_members_scan_has_the_same_bits_in_any_company(sizes: tuple[int, int, int, int], monkeypatch) -> None:
    rows, steps, inner, states = sizes
    given = [x.detach().float() for x in scanned(5, rows=rows, steps=steps, inner=inner, states=states)]

    def first_of(company: list[int]) -> list[Tensor]:
        own = [x[company].requires_grad_() for x in given]
        outputs = selective_scan(*own)
        gradients = torch.autograd.grad(sum(x.square().sum() for x in outputs), own)
        return [x[company.index(0)].detach() for x in (*outputs, *gradients)]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = first_of([0])
        others = [first_of([2, 1, 0]), first_of([3, 0, 2, 1])]
        for limit in (1, 2 * min(steps, 16) * rows * inner * states):  # one at a time, two at a time
            monkeypatch.setattr(scan, "TOGETHER", limit)
            others.append(first_of([4, 0, 1, 3, 2]))
    finally:
        torch.set_num_threads(threads)
    for other in others:
        assert all(torch.equal(one, two) for one, two in zip(alone, other, strict=True))


# ---------------------------------------------------------------- the mixer


def test_members_of_a_literal_stack_and_vmap() -> None:
    """torch's own member axis over the literal form, against the stack's fast one, with a state to go on from."""
    solo = [mixer(e) for e in range(3)]
    model, x = stack(solo), some(3, 5, 18, 2)
    state = (some(3, 5, 2, 4), some(3, 5, 4, 3))
    y, last = model(x, state, 0)

    def alone(parameters: dict[str, Tensor], x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        with sequential():
            y, last = torch.func.functional_call(solo[0], parameters, (x, state, 0))
        return y, *last

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    mapped = torch.func.vmap(alone)(parameters, x, state)
    torch.testing.assert_close(mapped, (y, *last), rtol=1e-11, atol=1e-11)


def test_it_begins_as_published() -> None:
    model = MambaConfig(width=64, layers=1, init="uniform", dt_floor=2e-3).build(VECTORS)
    initialise(model, Seeds())
    own = model.requires_grad_(False).blocks[0].mixer
    assert own.dt_weight.shape == (128, 4)
    assert own.in_proj.bias is own.x_proj.bias is own.o.bias is None
    delta = torch.nn.functional.softplus(own.dt_bias.double())
    assert 2e-3 * (1 - 1e-4) <= float(delta.min()) < 2.1e-3
    assert 0.05 < float(delta.max()) <= 0.1 * (1 + 1e-4)
    assert abs(float(delta.log().mean()) - math.log(0.01)) < 0.5
    torch.testing.assert_close(own.A_log.exp(), torch.arange(1.0, 17.0).expand(128, 16))
    assert torch.equal(own.D, torch.ones(128))
    assert float(own.dt_weight.abs().max()) <= 0.5 < 2 * float(own.dt_weight.abs().max())


def test_generation_is_the_whole_at_once() -> None:
    """One position at a time for 40 positions, in float32."""
    model, x = built("mamba", VECTORS, dtype=torch.float32), some_inputs(VECTORS, 3, 40, dtype=torch.float32)
    state, outputs = None, []
    with torch.no_grad():
        for t in range(40):
            y, state = model(x[:, t : t + 1], state)
            outputs.append(y)
        torch.testing.assert_close(torch.cat(outputs, 1), model(x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dt_min": 0.2}, "dt_min = 0.2 is above dt_max = 0.1"),
        ({"dt_floor": 0.5}, "dt_floor = 0.5 is above dt_max = 0.1"),
        ({"state": 0}, "greater than 0"),
        ({"kernel": 0}, "greater than 0"),
        ({"expand": 0}, "greater than 0"),
        ({"dt_rank": 0}, "greater than 0"),
        ({"bidirectional": True}, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MambaConfig(**fields)


@pytest.mark.slow  # a C++ compiler
def test_it_compiles_to_one_function() -> None:
    compiles_to_one_function("mamba", 35)
