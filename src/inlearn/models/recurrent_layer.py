"""What the recurrent layers share: parameters, the choice between literal and fast form, initial weights.

Shapes: N rows, T positions, C width, G gates; "..." is nothing or the E members of a stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from inlearn.core import draws
from inlearn.models.activations import Point
from inlearn.models.initialise import Constant, Law, Normal, Uniform
from inlearn.models.recurrence import State, full_precision, literal, through
from inlearn.models.recurrent_options import RecurrentConfig


class RecurrentLayer(nn.Module):
    """Width to width. Parameters have torch's names and order of gates: weight_ih and weight_hh (G C, C), bias_ih and
    bias_hh (G C,); a stack's lead with E.

    Activations: hidden (..., N, T, C), which is also what the layer returns.
    """

    GATES: ClassVar[int]
    PARAMETERS: ClassVar[tuple[str, ...]] = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    drops_own = False
    """Whether the layer has dropped from its output already what its block would drop."""

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config, wide = config, self.GATES * config.width
        for name in self.PARAMETERS:
            shape = (wide, config.width) if name.startswith("weight") else (wide,)
            self.register_parameter(name, nn.Parameter(torch.full(shape, float("nan"))))
        self.hidden = Point()

    @property
    def points(self) -> tuple[Point, ...]:
        """Where the parts of the state can be seen, in their order; the first part is the output."""
        return (self.hidden,)

    def forward(self, x: Tensor, state: State | None = None, before: int = 0) -> tuple[Tensor, State]:
        """x (..., N, T, C), `before` positions into its rows, to the same, and the state after the last position.

        Computes in the weights' precision, under autocast too.
        """
        with full_precision(x.device):
            x = x.to(self.weight_ih.dtype)
            if state is None:
                state = tuple(x.new_zeros(*x.shape[:-2], x.shape[-1]) for _ in self.points)
            inputs = self.inputs(x, before)
            if x.shape[-2] > 1 and not literal(*self.points):  # of a single position the plain step is the cheapest
                return self.fast(state, *inputs)
            states = through(self.points, self.step, state, inputs, -2, self.within)
            return states[0], tuple(part.select(-2, -1) for part in states)

    def inputs(self, x: Tensor, before: int) -> tuple[Tensor, ...]:
        """What the steps take beside the state."""
        return (x,)

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        """The state (..., N, C) after a position, given the one before and inputs (..., N, C): the literal form."""
        raise NotImplementedError

    def within(self, before: State, inputs: tuple[Tensor, ...], here: State) -> State:
        """As `recurrence.through` asks for it; of a single part nothing follows."""
        return here

    def fast(self, state: State, *inputs: Tensor) -> tuple[Tensor, State]:
        """What all steps make of inputs (..., N, T, C), and the state after them. Differentiable once."""
        raise NotImplementedError

    def own_laws(self) -> dict[str, Law]:
        """The laws of the parameters above, by name."""
        width, wide = self.config.width, self.GATES * self.config.width
        laws: dict[str, Law] = dict.fromkeys(self.PARAMETERS, Constant(0.0))
        match self.config.recurrent_init:
            case "uniform":
                return dict.fromkeys(self.PARAMETERS, Uniform(width**-0.5))
            case "xavier":
                return laws | dict.fromkeys(("weight_ih", "weight_hh"), Normal((2 / (3 * width)) ** 0.5))
            case "identity":
                hidden: Law = Identity()
            case _:
                hidden = Orthogonal()
        return laws | {"weight_ih": Uniform((6 / (wide + width)) ** 0.5), "weight_hh": hidden}


def library(
    kernel: Callable[..., tuple[Tensor, ...]], x: Tensor, state: State, parameters: Sequence[Tensor]
) -> tuple[Tensor, State]:
    """torch's own kernel of one layer (`torch.lstm` and its like), member by member.

    x (..., N, T, C), state (..., N, C) each, parameters in the order of `PARAMETERS`.
    """
    if x.dim() == 4:
        each = [library(kernel, *own[:1], own[1 : len(state) + 1], own[len(state) + 1 :])
                for own in zip(*(tensor.unbind(0) for tensor in (x, *state, *parameters)), strict=True)]  # fmt: skip
        ys, states = zip(*each, strict=True)
        return torch.stack(ys), tuple(torch.stack(parts) for parts in zip(*states, strict=True))
    if torch.compiler.is_compiling():
        raise RuntimeError("a compiler cannot take torch's own recurrent layers whole")
    if x.is_cuda:
        # cuDNN wants them one after another in memory that is theirs alone; otherwise it warns and copies them.
        sizes, shapes = [p.numel() for p in parameters], [p.shape for p in parameters]
        whole = torch.cat([p.reshape(-1) for p in parameters])
        parameters = [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
    first = tuple(part.unsqueeze(0).contiguous() for part in state)
    # Always as in training: nothing is dropped in a single layer, and cuDNN differentiates no other.
    settings = {"has_biases": True, "num_layers": 1, "dropout": 0.0, "train": True, "bidirectional": False}
    y, *last = kernel(x, first if len(first) > 1 else first[0], parameters, **settings, batch_first=True)
    return y, tuple(part.squeeze(0) for part in last)


def members_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    """(T, E, N, C) each to (E, T N, C), in order, so that sums over a member's positions do not depend on E."""
    return tuple(tensor.transpose(0, 1).flatten(1, 2).contiguous() for tensor in tensors)


def once(operator: Callable[..., Any], *arguments: Any) -> Any:
    """What an operator of a backward pass returns, with an error for who differentiates it again.

    After torch's `once_differentiable`, `torch.autograd.grad` can return numbers that lack this part, and say nothing.
    """
    if torch.compiler.is_compiling():  # which traces no function within another's backward pass, and runs none twice
        return operator(*arguments)
    return _Once.apply(operator, *arguments)


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(operator: Callable[..., Any], *arguments: Any) -> Any:
        return operator(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError("the fast form of a recurrence is differentiable once; compute within sequential()")


def count_flop(forward: Any, backward: Any) -> None:
    """Tell the FLOP counter of our operators: one product with the hidden weight a position, back through it two."""

    @register_flop_formula(forward)
    def _forward(x: Sequence[int], hidden: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * math.prod(x[1:3]) * math.prod(weight)

    @register_flop_formula(backward)
    def _backward(of_states: Sequence[int], *further: Any, out_shape: Any = None, **_: Any) -> int:
        (steps, members, rows, width), gates = of_states, out_shape[2][1] // out_shape[2][2]
        return 2 * 2 * (steps - 1) * members * rows * gates * width * width


# ---------------------------------------------------------------- initial weights


@dataclass(frozen=True)
class Orthogonal:
    """Uniformly random with orthonormal columns: Q of a QR decomposition of normals whose R has a positive diagonal."""

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        rows, columns = shape
        q, r = torch.linalg.qr(draws.normal(key, rows, (columns,)).double())
        return (q * r.diagonal().sign()).float()


@dataclass(frozen=True)
class Identity:
    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.eye(*shape)


@dataclass(frozen=True)
class Raised:
    """Another law, with `by` added to the entries from `first` up to `stop`."""

    law: Law
    first: int
    stop: int
    by: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        drawn = self.law.draw(key, shape)
        drawn[self.first : self.stop] += self.by
        return drawn
