"""S4D: in every channel a diagonal complex linear recurrence that does not depend on the input.

    h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A u_t,    y_t = 2 Re(sum_n C_n h_t,n) + D u_t

for M conjugate pairs of states a channel (of which one each is kept), discretised by zero-order hold, with B = 1 as
part of C. Complex numbers are pairs of real ones throughout, real parts first.

Shapes: N rows, T positions, C width, L positions of a chunk, K chunks; "..." is nothing or the members.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models.activations import Point
from inlearn.models.initialise import Constant, Law, LogUniform, Normal
from inlearn.models.leaves import Dropout, Linear, anywhere, beside
from inlearn.models.recurrence import State, full_precision, literal, through
from inlearn.models.s4d_config import S4DConfig

CHUNK = 64
gelu, sigmoid = anywhere(F.gelu), anywhere(torch.sigmoid)


@dataclass(frozen=True)
class Multiples:
    """0, unit, 2 unit, ... in every row."""

    unit: float

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return (torch.arange(shape[-1]) * self.unit).expand(shape)


class Complex(NamedTuple):
    """Two real tensors of one shape."""

    real: Tensor
    imag: Tensor

    def times(self, other: Complex) -> Complex:
        return Complex(self.real * other.real - self.imag * other.imag, self.real * other.imag + self.imag * other.real)


class S4D(nn.Module):
    """The mixer. Its state (..., N, C, 2M) has the real parts of all M pairs first, then the imaginary ones.

    Activations: `state` (N, T, C, 2M); `hidden` (N, T, C), what the recurrence puts out, after GELU; `output`
    (N, T, C).
    """

    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        self.config = config
        width, pairs = config.width, config.state // 2
        self.log_dt = nn.Parameter(torch.full((width,), float("nan")))
        self.log_decay = nn.Parameter(torch.full((width, pairs), float("nan")))  # A = -exp(log_decay) + i frequency
        self.frequency = nn.Parameter(torch.full((width, pairs), float("nan")))
        self.C = nn.Parameter(torch.full((width, 2, pairs), float("nan")))
        self.D = nn.Parameter(torch.full((width,), float("nan")))
        self.o = Linear(width, 2 * width)
        self.dropout = Dropout(config.dropout)
        self.state, self.hidden, self.output = Point(), Point(), Point()

    def own_laws(self) -> dict[str, Law]:
        """The paper's S4D-Lin: A_n = -1/2 + i pi n; C standard normal, its parts with half the variance each."""
        return {
            "log_dt": LogUniform(self.config.dt_min, self.config.dt_max),
            "log_decay": Constant(math.log(0.5)),
            "frequency": Multiples(math.pi),
            "C": Normal(0.5**0.5),
            "D": Normal(1.0),
        }

    def forward(self, x: Tensor, state: State | None, before: int) -> tuple[Tensor, State]:
        """x (..., N, T, C) to what the mixer adds, and the state after the last position."""
        with full_precision(x.device):
            u = x.to(self.log_dt.dtype)
            h = u.new_zeros(*u.shape[:-2], u.shape[-1], self.config.state) if state is None else state[0]
            y, h = (self._literal if u.shape[-2] == 1 or literal(self.state) else self._chunked)(u, h)
            y = torch.addcmul(y, u, beside(self.D, 1, u))
        y = self.dropout(self.hidden(gelu(y)), before)
        y, gate = self.o(y).chunk(2, -1)
        return self.output(y * sigmoid(gate.contiguous())), (h,)

    def _rates(self) -> Complex:
        """dt A (..., C, M)."""
        dt = self.log_dt.exp().unsqueeze(-1)
        return Complex(-self.log_decay.exp() * dt, self.frequency * dt)

    def _input(self, rates: Complex) -> Complex:
        """(exp(dt A) - 1) / A (..., C, M), without the difference of nearly equal numbers."""
        grown = Complex(
            torch.expm1(rates.real) * torch.cos(rates.imag) - 2 * torch.sin(rates.imag / 2).square(),
            rates.real.exp() * torch.sin(rates.imag),
        )
        scale = self.log_dt.exp().unsqueeze(-1) / (rates.real.square() + rates.imag.square())
        return grown.times(Complex(rates.real * scale, -rates.imag * scale))

    def _literal(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        rates = self._rates()
        decay = Complex(*(beside(part, 2, h) for part in _power(rates, 1)))
        entry = Complex(*(beside(part, 2, h) for part in self._input(rates)))

        def step(state: State, now: tuple[Tensor, ...]) -> State:
            u, h = now[0].unsqueeze(-1), Complex(*state[0].chunk(2, -1)).times(decay)
            return (torch.cat((h.real + entry.real * u, h.imag + entry.imag * u), -1),)

        axis = u.dim() - 2
        (states,) = through((self.state,), step, (h,), (u,), axis)
        real, imag = states.chunk(2, -1)
        C_real, C_imag = (beside(part, 2, states) for part in self.C.unbind(-2))
        return 2 * (C_real * real - C_imag * imag).sum(-1), states.select(axis, -1)

    def _chunked(self, u: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Within a chunk every pair of positions, between chunks the state: all as products, a channel at a time."""
        rows, steps = u.shape[-3:-1]
        length = min(CHUNK, steps)
        chunks, rest = -(-steps // length), steps % length
        rates = self._rates()
        entry, powers = self._input(rates), _power(rates, torch.arange(length + 1, device=u.device, dtype=u.dtype))
        entering, leaving, within = self._maps(entry, powers)

        # (..., C, N, K, L), the last position of a chunk first
        u = F.pad(u, (0, 0, 0, chunks * length - steps)).movedim(-1, -3).unflatten(-1, (chunks, length)).flip(-1)
        made = u.flatten(-3, -2) @ torch.cat((within, entering), -1)
        y, added = made.unflatten(-2, (rows, chunks)).split((length, 2 * rates.real.shape[-1]), -1)
        h = h.transpose(-2, -3)
        before = []
        for k in range(chunks):
            before.append(h)
            if k == chunks - 1 and rest:
                h = _after(h, powers, rest) + u[..., k, length - rest :] @ entering[..., :rest, :]
            else:
                h = _after(h, powers, length) + added[..., k, :]
        y = y + (torch.stack(before, -2).flatten(-3, -2) @ leaving).view(y.shape)
        return y.flatten(-2)[..., :steps].movedim(-3, -1).contiguous(), h.transpose(-2, -3)

    def _maps(self, entry: Complex, powers: Complex) -> tuple[Tensor, Tensor, Tensor]:
        """Of a chunk: inputs to state (..., C, L, 2M), state to outputs (..., C, 2M, L), inputs to outputs.

        Inputs are numbered from the last position of the chunk, outputs from the first: the last map is (..., C, L, L).
        """
        entered = Complex(*(part.unsqueeze(-1) for part in entry)).times(powers)
        C = Complex(*(part.unsqueeze(-1) for part in self.C.unbind(-2))).times(powers)
        seen = torch.cat((2 * C.real, -2 * C.imag), -2)
        kernel = torch.cat(entry, -1).unsqueeze(-2) @ seen[..., :-1]
        length = kernel.shape[-1]
        within = F.pad(kernel.squeeze(-2), (length - 1, 0)).unfold(-1, length, 1)
        return torch.cat(entered, -2)[..., :-1].mT, seen[..., 1:], within


def _power(rates: Complex, exponents: Tensor | int) -> Complex:
    """exp(rates * exponents) (..., C, M), or (..., C, M, J) for J exponents."""
    if isinstance(exponents, Tensor):
        rates = Complex(*(part.unsqueeze(-1) for part in rates))
    size, angle = (rates.real * exponents).exp(), rates.imag * exponents
    return Complex(size * angle.cos(), size * angle.sin())


def _after(h: Tensor, powers: Complex, steps: int) -> Tensor:
    """What is left of h (..., C, N, 2M) after that many steps."""
    power = Complex(*(part[..., steps].unsqueeze(-2) for part in powers))
    return torch.cat(Complex(*h.chunk(2, -1)).times(power), -1)
