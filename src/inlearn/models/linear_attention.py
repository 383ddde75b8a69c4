"""Attention without softmax: keys and values are added up in one matrix a head, which queries read.

    S_t = S_{t-1} + phi(k_t) v_t^T,    z_t = z_{t-1} + phi(k_t),    y_t = S_t^T phi(q_t) / (z_t · phi(q_t))

Over a chunk of positions this is two products: queries meet the chunk's own keys under the causal mask, and the state
before the chunk. States exist between chunks only.

Shapes: N rows, T positions, C width, H heads of d, n chunks of L positions; "..." is nothing or the members of a stack.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inlearn.models import kernels
from inlearn.models.activations import Point
from inlearn.models.leaves import Linear
from inlearn.models.linear_attention_config import LinearAttentionConfig
from inlearn.models.recurrence import State, full_precision, literal, through

CHUNK = 32  # positions; 16 and 64 are as quick at width 64, 128 half as quick


class LinearAttention(nn.Module):
    """State: S (..., N, H, d, d), keys by values; with feature_map = elu also z (..., N, H, d).

    Activations: query, key (N, T, H, d) after the feature map, value, mixed (N, T, H, d), output (N, T, C), and the
    states after every position: state (N, T, H, d, d), normaliser (N, T, H, d).
    """

    def __init__(self, config: LinearAttentionConfig) -> None:
        super().__init__()
        width, bias = config.width, config.attention_bias
        self.config = config
        self.q, self.k, self.v = (Linear(width, width, bias) for _ in range(3))
        self.o = Linear(width, width, config.output_bias)
        self.query, self.key, self.value = Point(), Point(), Point()
        self.state, self.mixed, self.output = Point(), Point(), Point()
        self.normaliser = Point() if config.feature_map == "elu" else None

    def forward(self, x: Tensor, state: State | None, before: int) -> tuple[Tensor, State]:
        """x (..., N, T, C) to what is added to the stream, and the state after the last position."""
        d, dtype = self.config.head_width, self.q.weight.dtype
        q, k, v = (in_heads(leaf(x).to(dtype), d) for leaf in (self.q, self.k, self.v))
        with full_precision(x.device):
            if self.normaliser is not None:
                q, k = positive(q), positive(k)
            q, k, v = self.query(q), self.key(k), self.value(v)
            if state is None:
                S = q.new_zeros(*q.shape[:-3], *q.shape[-2:], d)
                state = (S,) if self.normaliser is None else (S, S[..., 0])
            if x.shape[-2] == 1 or literal(*self._states):
                mixed, state = self._step_by_step(q, k, v, state)
            else:
                mixed, state = self._chunked(q, k, v, state)
        return self.output(self.o(self.mixed(mixed).flatten(-2))), state

    @property
    def _states(self) -> tuple[Point, ...]:
        return (self.state,) if self.normaliser is None else (self.state, self.normaliser)

    def step(self, state: State, inputs: tuple[Tensor, ...]) -> State:
        """The state after one more position, whose key and value (..., N, H, d) are `inputs`."""
        k, v = inputs
        S, *z = state
        return S + k.unsqueeze(-1) * v.unsqueeze(-2), *(part + k for part in z)

    def _step_by_step(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        axis = q.dim() - 3
        S, *z = states = through(self._states, self.step, state, (k, v), axis)
        mixed = read(q, S)
        mixed = mixed / (q * z[0]).sum(-1, keepdim=True) if z else mixed * q.shape[-1] ** -0.5
        return mixed, tuple(part.select(axis, -1) for part in states)

    def _chunked(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        attend = kernels.linear_attention if kernels.serving("linear_attention", q) else chunked
        if self.normaliser is None:
            mixed, S = attend(q * q.shape[-1] ** -0.5, k, v, state[0])
            return mixed, (S,)
        # A column of ones among the values is summed up to the normaliser.
        S = torch.cat((state[0], state[1].unsqueeze(-1)), -1)
        mixed, S = attend(q, k, F.pad(v, (0, 1), value=1.0), S)
        return mixed[..., :-1] / mixed[..., -1:], (S[..., :-1], S[..., -1])


def chunked(q: Tensor, k: Tensor, v: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """What q (..., N, T, H, d) read of k (the same) and v (..., N, T, H, e), and the state (..., N, H, d, e) after."""
    steps = q.shape[-3]
    q, k, v = (in_chunks(x, min(CHUNK, steps)) for x in (q, k, v))
    states = torch.cat((state.unsqueeze(-3), k.mT @ v), -3).cumsum(-3)
    mixed = (q @ k.mT).tril() @ v + q @ states[..., :-1, :, :]
    return out_of_chunks(mixed, steps), states[..., -1, :, :]


def positive(x: Tensor) -> Tensor:
    """elu(x) + 1, without the rounding of exp(x) - 1 + 1, which is 0 below x = -17."""
    return torch.relu(x) + x.clamp(max=0).exp()


def in_heads(x: Tensor, d: int) -> Tensor:
    """(..., H * d) to (..., H, d)."""
    return x.unflatten(-1, (-1, d))


def in_chunks(x: Tensor, length: int) -> Tensor:
    """(..., N, T, H, d) to (..., N, H, n, L, d); what is missing at the end of the last chunk is zero."""
    return F.pad(x.transpose(-3, -2), (0, 0, 0, -x.shape[-3] % length)).unflatten(-2, (-1, length))


def out_of_chunks(x: Tensor, steps: int) -> Tensor:
    """(..., N, H, n, L, d) to (..., N, T, H, d)."""
    return x.flatten(-3, -2)[..., :steps, :].transpose(-3, -2)


def read(q: Tensor, S: Tensor) -> Tensor:
    """(..., e) of q (..., d) and S (..., d, e)."""
    return (q.unsqueeze(-2) @ S).squeeze(-2)
