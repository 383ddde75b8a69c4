"""Gated DeltaNet against its formula, number by number. Members 3, rows 5, heads 2 of 4 by 3, lengths across chunks."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformer_cases import Seeds
from zoo_cases import same_in_any_company

from inlearn.core.spaces import Interface, Vectors
from inlearn.models.activations import capture, intervene
from inlearn.models.gated_deltanet import WIDE, GatedDeltaNet, chunked, unit
from inlearn.models.gated_deltanet_config import GatedDeltaNetConfig
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.recurrence import sequential

INTERFACE = Interface(Vectors(5), Vectors(5), 200)
FORMS = {
    "gated": {"heads": 2, "value_width": 3},
    "plain": {"heads": 2, "gate": False},
    "one-head": {"heads": 1, "key_width": 5, "kernel": 1},  # projections with one column, a convolution of one position
}


def mixer(seed: int = 0, **fields: object) -> GatedDeltaNet:
    """Drawn, and moved so that every part matters."""
    model = GatedDeltaNetConfig(width=8, layers=1, mlp=0, **fields).build(INTERFACE)
    initialise(model, Seeds(seed))
    generator = torch.Generator().manual_seed(seed)
    found = model.blocks[0].mixer.double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return found


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def by_hand(parameters: dict[str, Tensor], x: Tensor, heads: int, d: int, e: int) -> Tensor:
    """Rows, positions, heads and channels one by one, from the paper's formulas."""
    p = {name: value.tolist() for name, value in parameters.items()}
    gated = "A_log" in p

    def linear(leaf: str, v: list[float]) -> list[float]:
        return [sum(w * a for w, a in zip(row, v, strict=True)) for row in p[f"{leaf}.weight"]]

    def sigmoid(a: float) -> float:
        return 1 / (1 + math.exp(-a))

    def convolved(name: str, past: list[list[float]]) -> list[float]:
        taps, sums = p[f"{name}_conv.weight"], [0.0] * len(past[-1])
        for back in range(min(len(past), len(taps[0]))):
            for c, own in enumerate(taps):
                sums[c] += own[-1 - back] * past[-1 - back][c]
        return [a * sigmoid(a) for a in sums]

    def normed(v: list[float]) -> list[float]:
        return [a / math.sqrt(sum(b * b for b in v) + 1e-6) for a in v]

    y = torch.empty_like(x)
    for n in range(x.shape[0]):
        past: dict[str, list[list[float]]] = {"q": [], "k": [], "v": []}
        S = [[[0.0] * e for _ in range(d)] for _ in range(heads)]
        for t in range(x.shape[1]):
            now = x[n, t].tolist()
            for name, seen in past.items():
                seen.append(linear(name, now))
            q, k, v = (convolved(name, seen) for name, seen in past.items())
            beta, mixed = [sigmoid(b) for b in linear("b", now)], []
            for h in range(heads):
                alpha = 1.0
                if gated:
                    rate = math.log1p(math.exp(linear("a", now)[h] + p["dt_bias"][h]))
                    alpha = math.exp(-math.exp(p["A_log"][h]) * rate)
                key, query = normed(k[h * d : (h + 1) * d]), normed(q[h * d : (h + 1) * d])
                for j in range(e):
                    held = sum(key[i] * S[h][i][j] for i in range(d))
                    for i in range(d):  # alpha (I - beta k k^T) S + beta k v^T
                        S[h][i][j] = alpha * (S[h][i][j] - beta[h] * key[i] * held) + beta[h] * key[i] * v[h * e + j]
                read = [sum(query[i] * S[h][i][j] for i in range(d)) / math.sqrt(d) for j in range(e)]
                root = math.sqrt(sum(a * a for a in read) / e + 1e-5)
                mixed += [a / root * w for a, w in zip(read, p["norm.weight"], strict=True)]
            if gated:
                mixed = [m * g * sigmoid(g) for m, g in zip(mixed, linear("g", now), strict=True)]
            y[n, t] = torch.tensor(linear("o", mixed), dtype=x.dtype)
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["fast", "literal"])
def test_every_number_is_the_formula_s(form: str, way: str) -> None:
    model, x = mixer(**FORMS[form]), some(3, 37, 8)
    config = model.config
    expected = by_hand(dict(model.named_parameters()), x, config.heads, config.key_head, config.value_head)
    if way == "fast":
        y, _ = model(x, None, 0)
    else:
        with sequential():
            y, _ = model(x, None, 0)
    torch.testing.assert_close(y.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 48])
def test_members_go_on_from_their_states(form: str, steps: int) -> None:
    """Outputs, last states and all gradients of the fast form, after a state, are the literal form's."""
    model, x = stack([mixer(e, **FORMS[form]) for e in range(3)]), some(3, 5, steps, 8).requires_grad_()
    state = tuple(part.detach().requires_grad_() for part in model(some(3, 5, 7, 8), None, 0)[1])

    def everything() -> list[Tensor]:
        y, last = model(x, state, 7)
        found = [y, *last]
        loss = sum((part * torch.linspace(-1, 1, part.numel(), dtype=part.dtype).view_as(part)).sum() for part in found)
        return [*found, *torch.autograd.grad(loss, [x, *state, *model.parameters()])]

    fast = everything()
    with sequential():
        slow = everything()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- the rule itself


def one_by_one(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """The rule with whole matrices (N, T, H, *), as published: S (I - beta k k^T) from the right, transposed."""
    reads = []
    for t in range(q.shape[1]):
        kk = torch.einsum("nhi,nhj->nhij", k[:, t], k[:, t])
        turn = torch.eye(k.shape[-1], dtype=k.dtype) - beta[:, t, :, None, None] * kk
        S = decay[:, t, :, None, None].exp() * turn @ S
        S = S + beta[:, t, :, None, None] * torch.einsum("nhi,nhj->nhij", k[:, t], v[:, t])
        reads.append(torch.einsum("nhi,nhij->nhj", q[:, t], S))
    return torch.stack(reads, 1), S


def inputs(steps: int, d: int, e: int) -> list[Tensor]:
    keys = unit(some(2, steps, 3, d))
    return [some(2, steps, 3, d), keys, some(2, steps, 3, e), -some(2, steps, 3).abs(), some(2, steps, 3).sigmoid()]


@pytest.mark.parametrize("d", [5, WIDE, WIDE + 1])
@pytest.mark.parametrize("steps", [1, 3, 33, 70])
def test_chunks_of_either_length_follow_the_rule(d: int, steps: int) -> None:
    given, S = inputs(steps, d, 4), some(2, 3, d, 4)
    for one, other in zip(chunked(*given, S), one_by_one(*given, S), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_what_is_written_in_full_is_read_back() -> None:
    """beta = 1 and no decay: a key holds its newest value, whatever was there."""
    k, v = unit(some(1, 40, 1, 6)), some(1, 40, 1, 3)
    mixed, _ = chunked(k, k, v, torch.zeros(1, 40, 1).double(), torch.ones(1, 40, 1).double(), some(1, 1, 6, 3))
    torch.testing.assert_close(mixed, v, rtol=1e-5, atol=1e-5)  # keys are of length 1 - 5e-7


def test_equal_keys_keep_float32() -> None:
    """The triangular systems of a repeated symbol: their powers reach 1e8, their solution is small."""
    k = unit(torch.ones(1, 64, 1, WIDE + 1, dtype=torch.float64))
    v, decay, beta = some(1, 64, 1, 4), torch.zeros(1, 64, 1).double(), torch.full((1, 64, 1), 0.999).double()
    S = torch.zeros(1, 1, WIDE + 1, 4).double()
    exact, _ = one_by_one(k, k, v, decay, beta, S)
    near, _ = chunked(*(x.float() for x in (k, k, v, decay, beta, S)))
    torch.testing.assert_close(near.double(), exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("decay", [-1e-6, -60.0, -3e4])
def test_no_decay_overflows(decay: float) -> None:
    q, k, v, _, beta = (x.float().requires_grad_() for x in inputs(70, 5, 4))
    decays = torch.full((2, 70, 3), decay, requires_grad=True)
    mixed, S = chunked(q, k, v, decays, beta, torch.ones(2, 3, 5, 4))
    expected, last = one_by_one(q, k, v, decays, beta, torch.ones(2, 3, 5, 4))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(S, last, rtol=1e-4, atol=1e-5)
    for gradient in torch.autograd.grad(mixed.sum() + S.sum(), (q, k, v, decays, beta)):
        assert torch.isfinite(gradient).all()


def test_a_small_decay_after_a_large_one_keeps_float32() -> None:
    """Within a chunk, where nearly all is forgotten now and then and little is in between."""
    q, k, v, _, beta = inputs(70, 5, 4)
    decay = torch.where(torch.arange(70) % 7 == 3, -1e5, -0.1).double().view(1, -1, 1).expand(2, 70, 3).clone()
    given = [x.requires_grad_() for x in (q, k, v, decay, beta, some(2, 3, 5, 4))]
    single = [x.detach().float().requires_grad_() for x in given]
    exact, near = one_by_one(*given), chunked(*single)
    for one, other in zip(near, exact, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=3e-6)
    slow = torch.autograd.grad(sum(x.sum() for x in exact), given)
    for one, other in zip(torch.autograd.grad(sum(x.sum() for x in near), single), slow, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=3e-5)


def test_gradients_and_their_gradients_by_finite_differences() -> None:
    given = [x[:1, :, :2].requires_grad_() for x in inputs(5, 3, 2)]
    S = some(1, 2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(chunked, (*given, S), fast_mode=True)
    assert torch.autograd.gradgradcheck(chunked, (*given, S), fast_mode=True)


def test_states_exist_between_chunks_only() -> None:
    """What backward keeps grows with T d, not with T d²."""
    kept: list[int] = []
    given = [x.requires_grad_() for x in inputs(256, 64, 64)]
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        chunked(*given, torch.zeros(2, 3, 64, 64, dtype=torch.float64))
    assert max(kept) <= 2 * 3 * (256 // 32) * 64 * 64


# ---------------------------------------------------------------- the layer


def test_a_member_has_the_same_bits_in_any_company_where_sizes_are_odd() -> None:
    same_in_any_company([mixer(e, **FORMS["gated"]).float() for e in range(4)], some(4, 3, 37, 8).float())


def test_activations_are_the_formula_s_and_an_edited_state_is_read() -> None:
    model, x = mixer(**FORMS["gated"]), some(5, 40, 8)
    shapes = {
        "query": (5, 40, 2, 4),
        "key": (5, 40, 2, 4),
        "value": (5, 40, 2, 3),
        "log_decay": (5, 40, 2),
        "strength": (5, 40, 2),
        "state": (5, 40, 2, 4, 3),
        "mixed": (5, 40, 2, 3),
        "output": (5, 40, 8),
    }
    with capture(model, list(shapes)) as seen:
        y, last = model(x, None, 0)
    assert {name: tuple(seen[name].shape) for name in shapes} == shapes
    assert (seen["log_decay"] <= 0).all() and ((seen["strength"] > 0) & (seen["strength"] < 1)).all()
    torch.testing.assert_close(seen["key"].norm(dim=-1), torch.ones(5, 40, 2).double(), rtol=1e-3, atol=0)
    torch.testing.assert_close(last[0], seen["state"][:, -1])
    torch.testing.assert_close(seen["mixed"], torch.einsum("nthi,nthij->nthj", seen["query"], seen["state"]) / 2)

    def forgets(states: Tensor) -> Tensor:  # what the first 20 positions left
        past = torch.arange(40).view(1, -1, 1, 1, 1) == 19
        return torch.where(past, torch.zeros_like(states), states)

    with intervene(model, {"state": forgets}):
        edited, _ = model(x, None, 0)
    torch.testing.assert_close(edited[:, :19], y[:, :19])
    emptied = [torch.zeros_like(last[0]), *model(x[:, :20], None, 0)[1][1:]]
    torch.testing.assert_close(edited[:, 20:], model(x[:, 20:], tuple(emptied), 20)[0])


def test_the_first_decays_are_the_published_ones() -> None:
    model = GatedDeltaNetConfig(width=64, heads=64, layers=1).build(INTERFACE)
    initialise(model, Seeds())
    own = model.blocks[0].mixer
    rate, A = torch.nn.functional.softplus(own.dt_bias), own.A_log.exp()
    assert rate.min() >= 1e-3 * (1 - 1e-4) and rate.max() <= 0.1 * (1 + 1e-4) and rate.max() / rate.min() > 20
    assert A.min() > 0 and 14 < A.max() < 16 and 6 < A.mean() < 10


def test_the_plain_deltanet_has_no_gates() -> None:
    gated, plain = ({name for name, _ in mixer(gate=gate).named_parameters()} for gate in (True, False))
    assert gated - plain == {"a.weight", "g.weight", "A_log", "dt_bias"} and plain < gated


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValidationError, match="width = 8 is not divisible by heads = 3; with key_width it need not be"):
        GatedDeltaNetConfig(width=8, heads=3)
    assert GatedDeltaNetConfig(width=8, heads=3, key_width=5).value_head == 5
    with pytest.raises(ValidationError, match="kernel"):
        GatedDeltaNetConfig(kernel=0)
