"""Mamba: a short convolution, then a linear recurrence whose coefficients depend on the input, gated by the input.

Shapes: N rows, T positions, C width, I inner channels, S states a channel; "..." is nothing or the members.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models import kernels
from inlearn.models.activations import Point
from inlearn.models.initialise import Constant, Law, StepBias, Uniform
from inlearn.models.leaves import Linear, anywhere, beside, linear
from inlearn.models.mamba_config import MambaConfig
from inlearn.models.recurrence import State, literal, through
from inlearn.models.selective_scan import selective_scan
from inlearn.models.short_convolution import ShortConvolution

silu, softplus = anywhere(F.silu), anywhere(F.softplus)


@dataclass(frozen=True)
class LogOfCount:
    """log 1, log 2, ... in every row: the paper's S4D-Real."""

    def draw(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        return torch.arange(1, shape[-1] + 1).log().expand(shape)


class Mamba(nn.Module):
    """The mixer. Its state: the last inputs of the convolution (..., N, kernel-1, I), and h (..., N, I, S).

    Activations: `convolved` (N, T, I), what enters the recurrence; `delta` (N, T, I), its step sizes; `state`
    (N, T, I, S); `read` (N, T, I), what it puts out; `gate` (N, T, I), which multiplies that; `output` (N, T, C).
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, size, rank = config.width, config.inner, config.state, config.rank
        self.in_proj, self.o = Linear(width, 2 * inner, bias=False), Linear(inner, width, bias=False)
        self.convolution = ShortConvolution(inner, config.kernel)
        self.x_proj = Linear(inner, rank + 2 * size, bias=False)
        self.dt_weight = nn.Parameter(torch.full((inner, rank), float("nan")))
        self.dt_bias = nn.Parameter(torch.full((inner,), float("nan")))
        self.A_log = nn.Parameter(torch.full((inner, size), float("nan")))
        self.D = nn.Parameter(torch.full((inner,), float("nan")))
        self.convolved, self.delta, self.state, self.read = Point(), Point(), Point(), Point()
        self.gate, self.output = Point(), Point()

    def own_laws(self) -> dict[str, Law]:
        config = self.config
        return {
            "dt_weight": Uniform(config.rank**-0.5),
            "dt_bias": StepBias(config.dt_min, config.dt_max, config.dt_floor),
            "A_log": LogOfCount(),
            "D": Constant(1.0),
        }

    def forward(self, x: Tensor, state: State | None, before: int) -> tuple[Tensor, State]:
        """x (..., N, T, C) to what the mixer adds, and the state after the last position."""
        past, h = (None, None) if state is None else state
        u, z = self.in_proj(x).chunk(2, -1)
        u, past = self.convolution(u, past)
        u = self.convolved(silu(u))
        gate = self.gate(silu(z.contiguous()))
        # Under autocast too, step sizes and the recurrence are in the precision of the weights.
        low, B, C = (part.to(u.dtype) for part in self._selection(u))
        delta = self.delta(softplus(low + beside(self.dt_bias, 1, low)))
        y, h = self._recurrence(u, delta, B, C, h)
        y = self.read(torch.addcmul(y, u, beside(self.D, 1, u)))
        return self.output(self.o(y * gate)), (past, h)

    def _selection(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the inputs choose: step sizes (..., N, T, I) before bias and softplus, B and C (..., N, T, S)."""
        low, B, C = self.x_proj(u).split((self.config.rank, self.config.state, self.config.state), -1)
        return linear(low, self.dt_weight), B, C

    def _recurrence(self, u: Tensor, delta: Tensor, B: Tensor, C: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
        """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = C_t h_t, from h (none: zeros) on."""
        A = -self.A_log.exp()
        if h is None:
            if kernels.serving("mamba", u) and not literal(self.state):
                return kernels.selective_scan(u, delta, A, B, C)
            h = u.new_zeros(*u.shape[:-2], u.shape[-1], self.config.state)
        axis = u.dim() - 2
        if u.shape[axis] > 1 and not literal(self.state):
            return selective_scan(u, delta, A, B, C, h)
        A = beside(A, 2, h)

        def step(state: State, now: tuple[Tensor, ...]) -> State:
            u, delta, B = now[0].unsqueeze(-1), now[1].unsqueeze(-1), now[2].unsqueeze(-2)
            return (torch.exp(delta * A) * state[0] + delta * B * u,)

        (states,) = through((self.state,), step, (h,), (u, delta, B), axis)
        return (states * C.unsqueeze(-2)).sum(-1), states.select(axis, -1)
