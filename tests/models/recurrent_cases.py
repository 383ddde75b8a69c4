"""Recurrent layers at small sizes, all axes different, and slow second implementations to hold them to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from transformer_cases import Seeds

from inlearn.core.draws import Address
from inlearn.core.spaces import Interface, Tokens
from inlearn.models.compiled import CompiledGradients
from inlearn.models.flat import FlatParameters
from inlearn.models.gru import GRULayer
from inlearn.models.gru_config import GRUConfig
from inlearn.models.initialise import initialise
from inlearn.models.leaves import set_dropout, stack
from inlearn.models.lstm import LSTMLayer
from inlearn.models.lstm_config import LSTMConfig
from inlearn.models.recurrence import State, sequential
from inlearn.models.recurrent_layer import RecurrentLayer
from inlearn.models.recurrent_options import RecurrentConfig
from inlearn.models.rnn import RNNLayer
from inlearn.models.rnn_config import RNNConfig

WIDTH, ROWS, STEPS = 5, 2, 7
Run = Callable[[RecurrentLayer, Tensor, State | None], tuple[Tensor, State]]


def lstm(width: int = WIDTH) -> LSTMLayer:
    return LSTMLayer(LSTMConfig(width=width))


def gru(width: int = WIDTH) -> GRULayer:
    return GRULayer(GRUConfig(width=width))


def rnn(width: int = WIDTH, dropping: bool = False, **fields: object) -> RNNLayer:
    """Of two layers the first, in evaluation unless it is `dropping`."""
    if dropping:
        fields |= {"dropout": 0.4, "recurrent_dropout": True}
    layer = RNNLayer(RNNConfig(width=width, **fields), last=False).train(dropping)
    set_dropout(layer, Address(Seeds(), "dropout", 3))
    return layer


LAYERS: dict[str, Callable[..., RecurrentLayer]] = {
    "lstm": lstm,
    "gru": gru,
    "rnn": rnn,
    "rnn-relu": partial(rnn, nonlinearity="relu"),
    "rnn-dropping": partial(rnn, dropping=True),
    "rnn-dropping-relu": partial(rnn, dropping=True, nonlinearity="relu"),
}


def drawn(kind: str, seed: int = 0, width: int = WIDTH, dtype: torch.dtype = torch.float64) -> RecurrentLayer:
    layer, generator = LAYERS[kind](width).to(dtype), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return layer


def stacked(kind: str, members: int, **sizes: object) -> tuple[RecurrentLayer, list[RecurrentLayer]]:
    """Members that drop out alike: the layer alone is no model with addresses of its own."""
    solo = [drawn(kind, seed, **sizes) for seed in range(members)]
    return stack(solo), solo


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_state(layer: RecurrentLayer, *shape: int) -> State:
    return tuple(numbers(*shape, seed=50 + n).requires_grad_() for n, _ in enumerate(layer.points))


def results(
    run: Run, layer: RecurrentLayer, x: Tensor, state: State | None
) -> tuple[list[Tensor], dict[str, Tensor | None]]:
    """Outputs and last state; and the gradients of a function in which each of their numbers has its own weight."""
    x = x.clone().requires_grad_()
    y, last = run(layer, x, state)
    given = {"x": x, **dict(layer.named_parameters()), **{f"state {n}": part for n, part in enumerate(state or ())}}
    loss = sum((part * numbers(*part.shape, seed=9 + n).to(part.dtype)).sum() for n, part in enumerate((y, *last)))
    gradients = torch.autograd.grad(loss, list(given.values()), allow_unused=True)
    return [part.detach() for part in (y, *last)], dict(zip(given, gradients, strict=True))


def assert_same(run: Run, other: Run, layer: RecurrentLayer, x: Tensor, state: State | None) -> None:
    values, gradients = results(run, layer, x, state)
    expected, slow = results(other, layer, x, state)
    for one, two in zip(values, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-10, atol=1e-10)
    for name, gradient in slow.items():
        torch.testing.assert_close(
            gradients[name], gradient, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}"
        )


def run(layer: RecurrentLayer, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    return layer(x, state)


# ---------------------------------------------------------------- what every layer promises


def literally(layer: RecurrentLayer, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    with sequential():
        return layer(x, state)


def check_forms(kind: str, members: int, steps: int, continued: bool) -> None:
    """The fast form, the literal one, plain Python and (where nothing is dropped) torch's layer agree in float64."""
    layer = stacked(kind, members)[0] if members else drawn(kind)
    lead = (members,) if members else ()
    state = some_state(layer, *lead, ROWS, WIDTH) if continued else None
    x = numbers(*lead, ROWS, steps, WIDTH)
    for other in (literally, slowly):
        assert_same(run, other, layer, x, state)
    if not members and "dropping" not in kind:
        assert_same(run, as_library, layer, x, state)


def check_gradients_numerically(kind: str) -> None:
    layer, x = drawn(kind), numbers(ROWS, 4, WIDTH).requires_grad_()
    names, parameters = zip(*layer.named_parameters(), strict=True)
    state = some_state(layer, ROWS, WIDTH)

    def function(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        own = dict(zip(names, rest[: len(names)], strict=True))
        y, last = torch.func.functional_call(layer, own, (x, rest[len(names) :]))
        return y, *last

    assert torch.autograd.gradcheck(function, (x, *parameters, *state))


def check_functional_gradients(kind: str) -> None:
    """`torch.func.grad` of the fast form is autograd's; torch's own member axis over the literal one is the stack's."""
    layer, x = drawn(kind), numbers(ROWS, STEPS, WIDTH)
    own = {name: parameter.detach() for name, parameter in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    expected = torch.autograd.grad(layer(x)[0].square().sum(), list(layer.parameters()))
    for one, two in zip(torch.func.grad(loss)(own).values(), expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-11, atol=1e-11)

    model, solo = stacked(kind, 3)
    xs, stack_of = numbers(3, ROWS, STEPS, WIDTH), {name: p.detach() for name, p in model.named_parameters()}
    with sequential():
        mapped = torch.func.vmap(lambda p, x: torch.func.functional_call(solo[0], p, (x,))[0])(stack_of, xs)
    torch.testing.assert_close(mapped, model(xs)[0], rtol=1e-11, atol=1e-11)


def check_second_derivatives(kind: str) -> None:
    """The fast form refuses them in words; the literal one has them (of a hidden state squared, by differences)."""
    layer, x = drawn(kind), numbers(ROWS, STEPS, WIDTH)

    def slope(run: Run) -> Tensor:
        return torch.autograd.grad(run(layer, x, None)[0].square().sum(), layer.weight_hh, create_graph=True)[0]

    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(slope(run).sum(), layer.weight_hh)
    curvature = torch.autograd.grad(slope(literally).sum(), layer.weight_hh)[0]
    before, step = layer.weight_hh.detach().clone(), 1e-6
    slopes = []
    for sign in (1, -1):
        with torch.no_grad():
            layer.weight_hh.copy_(before)[0, 1] += sign * step
        slopes.append(float(slope(run).detach().sum()))
    assert float(curvature[0, 1]) == pytest.approx((slopes[0] - slopes[1]) / (2 * step), rel=1e-6)


def check_bits(kind: str, width: int, rows: int, steps: int, dtype: torch.dtype) -> None:
    """Outputs, last state and gradients of a member, alone and last of 3, 4 and 16, at one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        solo = [drawn(kind, seed, width, dtype) for seed in range(16)]
        xs, weights = numbers(16, rows, steps, width, dtype=dtype), numbers(rows, steps, width, seed=7, dtype=dtype)
        alone, *companies = (_last_member(solo, xs, weights, [*range(1, members), 0]) for members in (1, 3, 4, 16))
        assert len(alone) > len(list(solo[0].parameters()))
        for company in companies:
            assert all(torch.equal(one, other) for one, other in zip(alone, company, strict=True))
    finally:
        torch.set_num_threads(threads)


def _last_member(solo: Sequence[RecurrentLayer], xs: Tensor, weights: Tensor, members: list[int]) -> list[Tensor]:
    layer, x = stack([solo[member] for member in members]), xs[members].requires_grad_()
    y, last = layer(x)
    loss = (y * weights).sum() + sum(part.sum() for part in last)
    return [part[-1] for part in (y, *last, *torch.autograd.grad(loss, [x, *layer.parameters()]))]


def check_autocast(kind: str) -> None:
    """A layer has the bits that it has without; gradients computed within the block are only close (linear's own)."""
    layer, x = drawn(kind, dtype=torch.float32), numbers(ROWS, STEPS, WIDTH).bfloat16().requires_grad_()
    given = [x, *layer.parameters()]
    plain = layer(x)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)[0]
        within = torch.autograd.grad(y.sum(), given, retain_graph=True)
    assert y.dtype == torch.float32
    assert torch.equal(y, plain)
    for of_y, of_plain, close in zip(
        torch.autograd.grad(y.sum(), given), torch.autograd.grad(plain.sum(), given), within, strict=True
    ):
        assert torch.equal(of_y, of_plain)
        torch.testing.assert_close(close, of_plain, rtol=0.03, atol=0.03)


def check_compiled(kind: str) -> None:
    """A compiler takes the loops whole: the gradients are the uncompiled ones."""
    model = stacked(kind, 2, dtype=torch.float32)[0]
    flat, x = FlatParameters(model), numbers(2, ROWS, 40, WIDTH, dtype=torch.float32)
    compiled = CompiledGradients(
        flat, lambda own, x: torch.func.functional_call(model, own, (x,))[0].square().sum((1, 2, 3))
    )
    losses, gradients = compiled(x), flat.gradients.clone()
    flat.zero()
    expected = model(x)[0].square().sum((1, 2, 3))
    expected.sum().backward()
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradients, flat.gradients, rtol=1e-4, atol=1e-4)


# ---------------------------------------------------------------- the layers in plain Python


def slowly(layer: RecurrentLayer, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Member by member, row by row, unit by unit, from the formulas and the parameters' names alone."""
    if x.dim() == 4:
        each = [
            _slow(layer, {name: p[e] for name, p in layer.named_parameters()}, x[e], [part[e] for part in state or ()])
            for e in range(len(x))
        ]
        ys, states = zip(*each, strict=True)
        return torch.stack(ys), tuple(torch.stack(parts) for parts in zip(*states, strict=True))
    return _slow(layer, dict(layer.named_parameters()), x, list(state or ()))


def _slow(
    layer: RecurrentLayer, w: dict[str, Tensor], x: Tensor, state: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    rows, steps, width = x.shape
    masks = layer.dropout(torch.ones_like(x)) if getattr(layer, "drops_own", False) else torch.ones_like(x)
    outputs, lasts = [], []
    for row in range(rows):
        h = state[0][row] if state else torch.zeros(width, dtype=x.dtype)
        c = state[1][row] if len(state) > 1 else torch.zeros(width, dtype=x.dtype)
        for t in range(steps):
            h, c = _slow_step(layer, w, x[row, t], h, c, masks[row, t])
            outputs.append(h)
        lasts.append((h, c))
    parts = tuple(torch.stack(part) for part in zip(*lasts, strict=True))
    return torch.stack(outputs).view(rows, steps, width), parts[: len(layer.points)]


def _slow_step(
    layer: RecurrentLayer, w: dict[str, Tensor], x: Tensor, h: Tensor, c: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    width, zero = len(x), torch.zeros(4 * len(x), dtype=x.dtype)

    def of_x(gate: int, unit: int) -> Tensor:
        place = gate * width + unit
        return w["weight_ih"][place] @ x + w["bias_ih"][place]

    def of_h(gate: int, unit: int) -> Tensor:
        place = gate * width + unit
        return w["weight_hh"][place] @ h + w.get("bias_hh", zero)[place]

    def both(gate: int, unit: int) -> Tensor:
        return of_x(gate, unit) + of_h(gate, unit)

    hidden, cells = [], []
    for unit in range(width):
        if isinstance(layer, LSTMLayer):
            i, f, o = (_sigmoid(both(gate, unit)) for gate in (0, 1, 3))
            cells.append(f * c[unit] + i * _tanh(both(2, unit)))
            hidden.append(o * _tanh(cells[-1]))
        elif isinstance(layer, GRULayer):
            r, z = (_sigmoid(both(gate, unit)) for gate in (0, 1))
            n = _tanh(of_x(2, unit) + r * of_h(2, unit))
            hidden.append((1 - z) * n + z * h[unit])
        else:
            total = both(0, unit)
            hidden.append((total.clamp(min=0) if layer.relu else _tanh(total)) * mask[unit])
    return torch.stack(hidden), torch.stack(cells or hidden)


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _tanh(x: Tensor) -> Tensor:
    return (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1)


# ---------------------------------------------------------------- torch's own layers


def as_library(layer: RecurrentLayer, x: Tensor, state: State | None) -> tuple[Tensor, State]:
    """What nn.LSTM, nn.GRU and nn.RNN make of the same parameters (a missing bias is 0), as functions of them."""
    kind = {LSTMLayer: nn.LSTM, GRULayer: nn.GRU, RNNLayer: nn.RNN}[type(layer)]
    options = {"nonlinearity": "relu" if layer.relu else "tanh"} if kind is nn.RNN else {}
    width = x.shape[-1]
    module = kind(width, width, batch_first=True, dtype=x.dtype, **options)
    own = {f"{name}_l0": parameter for name, parameter in layer.named_parameters()}
    own.setdefault("bias_hh_l0", torch.zeros_like(layer.bias_ih))
    first = None if state is None else tuple(part[None] for part in state)
    first = first[0] if first is not None and kind is not nn.LSTM else first
    y, last = torch.func.functional_call(module, own, (x, first))
    return y, tuple(part[0] for part in (last if isinstance(last, tuple) else (last,)))


# ---------------------------------------------------------------- initial weights


def initialised(config: RecurrentConfig) -> dict[str, Tensor]:
    """The parameters of layer 0 of a model, by name."""
    model = config.build(Interface(Tokens(21), Tokens(5), 12))
    initialise(model, Seeds(3))
    return {name: p.detach() for name, p in model.blocks[0].recurrence.named_parameters()}


def assert_orthogonal(weight: Tensor) -> None:
    """Orthonormal columns, of any sign."""
    product = weight.double().mT @ weight.double()
    torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.float64), rtol=0, atol=1e-6)
    assert 0.4 < float((weight.diagonal() > 0).float().mean()) < 0.6


def assert_uniform(values: Tensor, bound: float) -> None:
    """Entries of U(-bound, bound)."""
    count = values.numel()
    assert (1 - 12 / count) * bound < float(values.abs().max()) < bound
    assert float(values.std()) == pytest.approx(bound / 3**0.5, rel=2.3 * count**-0.5)
