"""Every registered model at a small size, for tests of what all of them promise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformer_cases import Seeds

from inlearn.core.spaces import Interface, Tokens, Vectors
from inlearn.lab import discovery
from inlearn.models.compiled import CompiledGradients
from inlearn.models.flat import FlatParameters
from inlearn.models.initialise import initialise
from inlearn.models.leaves import stack

WIDTH, LENGTH = 8, 150
TOKENS = Interface(Tokens(11), Tokens(6), LENGTH)
VECTORS = Interface(Vectors(5), Vectors(5, answers=1), LENGTH)
INTERFACES = {"tokens": TOKENS, "vectors": VECTORS}

# Small and odd sizes, so that no two axes are equal; more than one setting where a kind has several forms.
SETTINGS: dict[str, dict[str, dict[str, object]]] = {
    "transformer": {"transformer": {"heads": 2}},
    "rnn": {"rnn": {}, "rnn-relu": {"nonlinearity": "relu", "recurrent_init": "identity"}},
    "s4d": {"s4d": {"state": 6}},
    "mamba": {"mamba": {"state": 3}},
    "linear_attention": {
        "linear_attention": {"heads": 2},
        "linear_attention-identity": {"heads": 2, "feature_map": "identity"},
    },
    "gated_deltanet": {"gated_deltanet": {"heads": 2}, "deltanet": {"heads": 2, "gate": False}},
}
CASES = {
    name: (kind, settings)
    for kind in discovery.models()
    for name, settings in SETTINGS.get(kind, {kind: {}}).items()
}  # fmt: skip


def config(case: str, **fields: object):
    kind, settings = CASES[case]
    return discovery.models()[kind](**{"width": WIDTH, "layers": 2, **settings, **fields})


def built(
    case: str, interface: Interface = TOKENS, seed: int = 0, dtype: torch.dtype = torch.float64, **fields: object
) -> nn.Module:
    """Initialised, with every parameter moved off 0 and 1, so that each part matters."""
    model = config(case, **fields).build(interface)
    initialise(model, Seeds(seed))
    model, generator = model.to(dtype), torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
        if case == "rnn-relu":  # or it grows without bound
            for block in model.blocks:
                block.recurrence.weight_hh *= 0.5
    return model


def some_inputs(interface: Interface, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(interface.inputs, Tokens):
        return torch.randint(interface.inputs.size, shape, generator=generator)
    return torch.randn(*shape, interface.inputs.dim, generator=generator, dtype=torch.float64).to(dtype)


def stacked(
    case: str, count: int, interface: Interface = TOKENS, **fields: object
) -> tuple[nn.Module, list[nn.Module]]:
    solo = [built(case, interface, seed, **fields) for seed in range(count)]
    return stack(solo), solo


def same_in_any_company(solo: list[torch.nn.Module], x: Tensor) -> None:
    """Assert that member 0's outputs, states and gradients are the same bits alone and beside others, at one thread.

    `solo` are layers (x, state, before) -> (y, state), `x` (E, N, T, C) their inputs.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for company in ([0], [1, 0, 2], [3, 2, 1, 0]):
            model, own = stack([solo[e] for e in company]), x[company].requires_grad_()
            y, last = model(own, None, 0)
            gradients = torch.autograd.grad(y.square().sum((1, 2, 3)).sum(), [own, *model.parameters()])
            found.append([part[company.index(0)] for part in (y, *last, *gradients)])
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


def compiles_to_one_function(kind: str, length: int) -> None:
    """Assert that a model of vectors, compiled, has the gradients that it has uncompiled."""
    model = built(kind, VECTORS, dtype=torch.float32)
    x = some_inputs(VECTORS, 3, length, dtype=torch.float32)
    flat = FlatParameters(model)
    model(x)[0].square().mean().backward()
    wanted = flat.gradients.clone()

    def losses(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, parameters, (x,))[0].square().mean()

    flat.zero()
    CompiledGradients(flat, losses)(x)
    torch.testing.assert_close(flat.gradients, wanted, rtol=1e-4, atol=1e-5)
