"""Linear attention against its formula, number by number. Members 3, rows 5, heads 2 of 4, lengths across chunks."""

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
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack
from inlearn.models.linear_attention import CHUNK, LinearAttention, chunked, positive
from inlearn.models.linear_attention_config import LinearAttentionConfig
from inlearn.models.recurrence import sequential

INTERFACE = Interface(Vectors(5), Vectors(5), 200)
FORMS = {
    "elu": {"feature_map": "elu"},
    "elu-biased": {"feature_map": "elu", "attention_bias": True, "output_bias": True},
    "identity": {"feature_map": "identity"},
}


def mixer(seed: int = 0, **fields: object) -> LinearAttention:
    """Drawn, and moved so that biases and every other part matter."""
    model = LinearAttentionConfig(width=8, heads=2, layers=1, mlp=0, **fields).build(INTERFACE)
    initialise(model, Seeds(seed))
    generator = torch.Generator().manual_seed(seed)
    found = model.blocks[0].mixer.double()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return found


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def by_hand(parameters: dict[str, Tensor], x: Tensor, heads: int, elu: bool) -> Tensor:
    """Rows, positions, heads and channels one by one: every position reads all keys up to its own."""
    p = {name: value.tolist() for name, value in parameters.items()}

    def linear(leaf: str, v: list[float]) -> list[float]:
        rows = p[f"{leaf}.weight"]
        bias = p.get(f"{leaf}.bias", [0.0] * len(rows))
        return [b + sum(w * a for w, a in zip(row, v, strict=True)) for row, b in zip(rows, bias, strict=True)]

    def phi(a: float) -> float:
        return a if not elu else (a + 1 if a > 0 else math.exp(a))

    d = x.shape[-1] // heads
    y = torch.empty_like(x)
    for n in range(x.shape[0]):
        q, k, v = ([linear(leaf, x[n, t].tolist()) for t in range(x.shape[1])] for leaf in "qkv")
        for t in range(x.shape[1]):
            read = [0.0] * x.shape[-1]
            for h in range(heads):
                own = range(h * d, (h + 1) * d)
                scores = [sum(phi(q[t][i]) * phi(k[s][i]) for i in own) for s in range(t + 1)]
                below = sum(scores) if elu else math.sqrt(d)
                for i in own:
                    read[i] = sum(score * v[s][i] for s, score in enumerate(scores)) / below
            y[n, t] = torch.tensor(linear("o", read), dtype=x.dtype)
    return y


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", ["fast", "literal"])
def test_every_number_is_the_formula_s(form: str, way: str) -> None:
    model, x = mixer(**FORMS[form]), some(3, CHUNK + 5, 8)
    expected = by_hand(dict(model.named_parameters()), x, 2, form != "identity")
    if way == "fast":
        y, _ = model(x, None, 0)
    else:
        with sequential():
            y, _ = model(x, None, 0)
    torch.testing.assert_close(y.detach(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("steps", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
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


def test_states_exist_between_chunks_only() -> None:
    """What backward keeps grows with T d, not with T d²."""
    kept: list[int] = []
    q, k, v = (some(1, 8 * CHUNK, 1, 64).requires_grad_() for _ in range(3))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        chunked(q, k, v, torch.zeros(1, 1, 64, 64, dtype=torch.float64))
    assert max(kept) <= 9 * 64 * 64 < q.shape[1] * 64 * 64


def test_the_feature_map_is_elu_plus_one_and_never_rounds_to_zero() -> None:
    x = torch.linspace(-60, 60, 1201, dtype=torch.float64)
    torch.testing.assert_close(positive(x), torch.nn.functional.elu(x) + 1, rtol=1e-12, atol=1e-15)
    assert (positive(torch.tensor([-80.0, -20.0])) > 0).all()  # elu(-20) + 1 is 0 in float32
    points = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(positive(points).sum(), points)
    torch.testing.assert_close(slopes, torch.tensor([math.exp(-2.0), 1.0, 1.0], dtype=torch.float64))


def test_a_member_has_the_same_bits_in_any_company_where_sizes_are_odd() -> None:
    same_in_any_company([mixer(e).float() for e in range(4)], some(4, 3, 37, 8).float())


def test_activations_are_the_formula_s_and_an_edited_state_is_read() -> None:
    model, x = mixer(), some(5, 40, 8)
    names = ("query", "key", "value", "state", "normaliser", "mixed", "output")
    with capture(model, names) as seen:
        y, last = model(x, None, 0)
    assert {name: tuple(seen[name].shape) for name in names} == {
        **dict.fromkeys(("query", "key", "value", "mixed", "normaliser"), (5, 40, 2, 4)),
        "state": (5, 40, 2, 4, 4),
        "output": (5, 40, 8),
    }
    torch.testing.assert_close(seen["normaliser"], seen["key"].cumsum(1))
    outer = torch.einsum("nthi,nthj->nthij", seen["key"], seen["value"])
    torch.testing.assert_close(seen["state"], outer.cumsum(1))
    torch.testing.assert_close(last[0], seen["state"][:, -1])

    def forgets(states: Tensor) -> Tensor:  # what the first 20 positions left
        past = torch.arange(40).view(1, -1, 1, 1, 1) == 19
        return torch.where(past, torch.zeros_like(states), states)

    with intervene(model, {"state": forgets, "normaliser": lambda z: forgets(z.unsqueeze(-1)).squeeze(-1)}):
        edited, _ = model(x, None, 0)
    torch.testing.assert_close(edited[:, 20:], model(x[:, 20:], None, 20)[0])
    torch.testing.assert_close(edited[:, :19], y[:, :19])


def test_impossible_heads_are_refused() -> None:
    with pytest.raises(ValidationError, match="width = 8 is not divisible by heads = 3"):
        LinearAttentionConfig(width=8, heads=3)
    with pytest.raises(ValidationError, match="positions"):
        LinearAttentionConfig(positions="rotary")
